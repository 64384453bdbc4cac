package testkit

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Self returns the path of the test binary.
func Self(t testing.TB) string {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return exe
}

var built struct {
	sync.Mutex
	paths map[string]string // by arguments and environment
}

// Build builds a program with go build and returns its path. The arguments are
// go build's: flags, and a package as seen from the test's directory.
// Assignments such as CGO_ENABLED=0 come first, and set the environment.
// Each program is built once per test process.
func Build(t testing.TB, args ...string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	key := strings.Join(args, "\x00")
	if exe, ok := built.paths[key]; ok {
		return exe
	}
	dir, kept := programDir(t)
	sum := sha256.Sum256([]byte(key))
	exe := filepath.Join(dir, "program-"+hex.EncodeToString(sum[:8])+exeSuffix())
	env := os.Environ()
	for len(args) > 0 && strings.Contains(args[0], "=") && !strings.HasPrefix(args[0], "-") {
		env, args = append(env, args[0]), args[1:]
	}
	cmd := exec.Command("go", append([]string{"build", "-o", exe}, args...)...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go build %s: %s", strings.Join(args, " "), out)
	if kept {
		if built.paths == nil {
			built.paths = map[string]string{}
		}
		built.paths[key] = exe
	}
	return exe
}

// BuildTests builds the test binary of the test's own package and returns its path. env
// has assignments such as CGO_ENABLED=0.
func BuildTests(t testing.TB, env ...string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), filepath.Base(Self(t)))
	cmd := exec.Command("go", "test", "-c", "-o", exe, ".")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go test -c: %s", out)
	return exe
}

// BuildSource builds a program of one file, given as text, as Build does.
func BuildSource(t testing.TB, source string, env ...string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(source))
	dir, _ := programDir(t)
	src := filepath.Join(dir, "source-"+hex.EncodeToString(sum[:8]), "main.go")
	WriteFile(t, src, source)
	return Build(t, append(env, src)...)
}

// programDir returns a directory for built programs, and whether it outlives
// the test. The programs are put beside the test binary, because go test removes
// its temporary directory. A binary of go test -c stands elsewhere, and
// leaves nothing there: it builds for each test.
func programDir(t testing.TB) (dir string, kept bool) {
	t.Helper()
	self := filepath.Dir(Self(t))
	if strings.Contains(self, string(filepath.Separator)+"go-build") {
		return self, true
	}
	return t.TempDir(), false
}

func exeSuffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}
