package ssh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
)

// program is a binary for a platform.
type program struct {
	path string
	hash string // SHA-256, hexadecimal
	size int64
}

// own is this program's own binary. Its file may have been replaced since the start.
var own = sync.OnceValues(func() (*program, error) {
	path, err := os.Executable()
	if runtime.GOOS == "linux" {
		path = "/proc/self/exe"
	}
	if err != nil && path == "" {
		return nil, err
	}
	return readProgram(path)
})

// readProgram computes the hash of a binary.
func readProgram(path string) (*program, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return nil, err
	}
	return &program{path, hex.EncodeToString(sum.Sum(nil)), size}, nil
}

// programs returns the binaries by the names of uname. Each is read once.
func (h *Host) programs() (map[string]*program, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.binaries != nil {
		return h.binaries, nil
	}
	all := make(map[string]*program)
	add := func(platform string, p *program) {
		for _, name := range unames[platform] {
			all[name] = p
		}
	}
	if h.Programs[platform] == "" {
		p, err := own()
		if err != nil {
			return nil, err
		}
		add(platform, p)
	}
	for name, path := range h.Programs {
		if unames[name] == nil {
			return nil, fmt.Errorf("field Programs: %q: want a platform such as linux/arm64", name)
		}
		p, err := readProgram(path)
		if err != nil {
			return nil, err
		}
		add(name, p)
	}
	h.binaries = all
	return all, nil
}

const platform = runtime.GOOS + "/" + runtime.GOARCH
