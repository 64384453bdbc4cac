//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// modeEnv makes this test binary run as treehash, in one of these modes.
const modeEnv = "TREEHASH_TEST_MODE"

const (
	asItIs     = "as it is"
	leakCheck  = "leak check" // exits with 99 if a goroutine is left at the end
	poison     = "poison"     // a worker exits if the file has poison in its name
	nothingReg = "nothing registered"
	longGrace  = "long grace" // hangs if it asks a busy worker to stop, and does not kill it
	oneWorker  = "one worker" // long grace, and no second worker can boot
)

// claimsEnv is the directory that processes of the mode oneWorker share.
const claimsEnv = "TREEHASH_TEST_CLAIMS"

func TestMain(m *testing.M) {
	switch os.Getenv(modeEnv) {
	case asItIs:
		main()
	case leakCheck:
		forkspawn.Register(entry, hashFiles)
		forkspawn.Init()
		code := run(parse(os.Args[1:]))
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 99
		}
		os.Exit(code)
	case poison:
		forkspawn.Register(entry, dieOfPoison)
		forkspawn.Init()
		os.Exit(run(parse(os.Args[1:])))
	case nothingReg:
		forkspawn.Init()
		os.Exit(run(parse(os.Args[1:])))
	case longGrace:
		mainWithLongGrace()
	case oneWorker:
		// The first two processes are the parent and the first worker.
		for _, role := range []string{"parent", "worker"} {
			if os.Mkdir(filepath.Join(os.Getenv(claimsEnv), role), 0o700) == nil {
				mainWithLongGrace()
			}
		}
		// Wait until the test has opened the fifo too. Then Init fails, because no
		// entry is registered.
		os.ReadFile(filepath.Join(os.Getenv(claimsEnv), "go"))
		forkspawn.Init()
	}
	spawntest.Main(m)
}

func mainWithLongGrace() {
	forkspawn.Register(entry, hashFiles)
	forkspawn.Init()
	opts := parse(os.Args[1:])
	opts.config.StopGrace = time.Hour
	os.Exit(run(opts))
}

// dieOfPoison answers with sums of zeros. It also writes to stdout, which must
// not appear in the output of treehash.
func dieOfPoison(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux()
	sumOf.Handle(mux, func(_ context.Context, r request) (answer, error) {
		if strings.Contains(string(r.Path), "poison") {
			os.Exit(7)
		}
		fmt.Println("noise")
		return answer{}, nil
	})
	return call.Serve(ctx, parent, mux)
}

// bound is generous because it only has to find hangs.
const bound = time.Minute

// program returns a command for treehash and its new temporary directory. After
// a run the directory must be empty, unless the program was killed.
func program(t testing.TB, mode string, args ...string) (cmd *exec.Cmd, tmp string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	tmp, err = os.MkdirTemp("", "treehash") // t.TempDir is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(tmp) })
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), modeEnv+"="+mode, "TMPDIR="+tmp, "XDG_RUNTIME_DIR=")
	return cmd, tmp
}

// wait waits for cmd and returns its exit code.
func wait(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode()
}

// result is the output and the exit code of a run.
type result struct {
	stdout, stderr string
	code           int
}

// runProgram runs treehash to its end and checks that no socket is left.
func runProgram(t testing.TB, mode string, args ...string) result {
	t.Helper()
	cmd, tmp := program(t, mode, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	code := wait(t, cmd)
	assertEmpty(t, tmp)
	return result{stdout.String(), stderr.String(), code}
}

func assertEmpty(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left, "left in $TMPDIR")
}

// write creates a file and the directories above it.
func write(t testing.TB, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, content, 0o644))
}

// oddTree creates a tree with unusual names and with files other than regular
// ones. It returns the expected output.
func oddTree(t testing.TB) (dir, want string) {
	t.Helper()
	dir = t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	size := func(n int) []byte {
		b := make([]byte, n)
		random.Read(b)
		return b
	}
	files := map[string][]byte{
		"plain": size(1000), "empty": nil, "large": size(9<<20 + 1),
		// Directories sort by bytes too: a-b, a.b, a/b.
		"a/b": size(1), "a-b": size(2), "a.b": size(3), "a b": size(4),
		"with space ": size(5), "new\nline": size(6), "back\\slash": size(7),
		"carriage\rreturn": size(8),
		"all\\of\nthem\r":  size(9), "tab\tbed": size(10), "esc\x1b[31m": size(11),
		`"quoted" 'name'`: size(12),
		"ünïcödé 日本":      size(13), "-dash": size(14), "*?[glob]": size(15), "%d%s": size(16),
		".hidden": size(17), ".hidden dir/.deeper": size(18), "new\nline dir/x\\y": size(19),
		strings.Repeat("deep/", 50) + "down": size(20), strings.Repeat("n", 255): size(21),
		strings.Repeat(strings.Repeat("d", 200)+"/", 8) + "long path": size(22),
	}
	if runtime.GOOS != "darwin" { // where names must be UTF-8
		files["not\xff\xfeutf-8"] = size(23)
	}
	for i := range 200 {
		files[fmt.Sprintf("many/%d", i)] = size(100 * i)
	}
	for path, content := range files {
		write(t, filepath.Join(dir, path), content)
	}
	require.NoError(t, os.Symlink("plain", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("a", filepath.Join(dir, "link to dir")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty dir"), 0o755))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	return dir, sums(files)
}

// sums returns the expected output for files.
func sums(files map[string][]byte) string {
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	var b strings.Builder
	for _, path := range paths {
		mark, name := "", path
		for _, r := range [][2]string{{`\`, `\\`}, {"\n", `\n`}, {"\r", `\r`}} {
			if strings.Contains(path, r[0]) {
				mark, name = `\`, strings.ReplaceAll(name, r[0], r[1])
			}
		}
		fmt.Fprintf(&b, "%s%x  ./%s\n", mark, sha256.Sum256(files[path]), name)
	}
	return b.String()
}
