// Package gobuild builds programs for tests.
package gobuild

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

var built struct {
	sync.Mutex                   // held during a build, guards paths
	paths      map[string]string // by arguments and environment
}

// Build builds a program with go build and returns its path. The arguments are
// go build's: flags, and a package as seen from the test's directory.
// Assignments such as CGO_ENABLED=0 come first, and set the environment.
// Each program is built once per test process. The error has the compiler's output.
func Build(t testing.TB, args ...string) (exe string, err error) {
	built.Lock()
	defer built.Unlock()
	key := strings.Join(args, "\x00")
	if exe, ok := built.paths[key]; ok {
		return exe, nil
	}
	dir, kept := Dir(t)
	sum := sha256.Sum256([]byte(key))
	exe = filepath.Join(dir, "program-"+hex.EncodeToString(sum[:8]))
	if runtime.GOOS == "windows" {
		exe += ".exe"
	}
	env := os.Environ()
	for len(args) > 0 && strings.Contains(args[0], "=") && !strings.HasPrefix(args[0], "-") {
		env, args = append(env, args[0]), args[1:]
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", exe}, args...)...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w: %s", strings.Join(args, " "), err, out)
	}
	if kept {
		if built.paths == nil {
			built.paths = map[string]string{}
		}
		built.paths[key] = exe
	}
	return exe, nil
}

// Dir returns a directory for built programs, and whether it outlives the test. The
// programs are put beside the test binary, because go test removes its temporary
// directory. A binary of go test -c stands elsewhere, and leaves nothing there: it
// builds for each test.
func Dir(t testing.TB) (dir string, kept bool) {
	if self, err := os.Executable(); err == nil {
		dir := filepath.Dir(self)
		if strings.Contains(dir, string(filepath.Separator)+"go-build") {
			return dir, true
		}
	}
	return t.TempDir(), false
}
