//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// modeEnv makes this test binary the program that is tested, in one of these ways.
const modeEnv = "TREEHASH_TEST_MODE"

const (
	asItIs     = "as it is"
	leakCheck  = "leak check" // exit 99 if a goroutine is left in the end
	poison     = "poison"     // a worker dies of every file that has poison in its name
	nothingReg = "nothing registered"
	oneWorker  = "one worker" // and no other one can boot
)

// claimsEnv is a directory for the mode oneWorker.
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
	case oneWorker:
		for _, who := range []string{"parent", "worker"} {
			if os.Mkdir(filepath.Join(os.Getenv(claimsEnv), who), 0o700) == nil {
				main()
			}
		}
		os.ReadFile(filepath.Join(os.Getenv(claimsEnv), "go")) // waits until the test has opened the fifo too
		forkspawn.Init()
	}
	spawntest.Main(m)
}

// dieOfPoison answers with sums of zeros. What it prints must not get into the output.
func dieOfPoison(ctx context.Context, parent *forkspawn.Parent) error {
	for {
		var r request
		if err := parent.Recv(ctx, &r); err != nil {
			return err
		}
		if strings.Contains(string(r.Path), "poison") {
			os.Exit(7)
		}
		fmt.Println("noise")
		if err := parent.Send(ctx, answer{}); err != nil {
			return err
		}
	}
}

// bound is generous: it is there to find hangs.
const bound = time.Minute

// program returns the program, not started, with a temporary directory of its own. After a run of it that
// was not killed there must be nothing in that.
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

// wait returns the exit code.
func wait(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode()
}

// result is what a run of the program has left.
type result struct {
	stdout, stderr string
	code           int
}

// runProgram runs the program to its end and checks that no socket is left.
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

// write makes a file and the directories above it.
func write(t testing.TB, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, content, 0o644))
}

// oddTree makes a tree of files with all sorts of names, and of what is no regular file. It returns what
// the program should print for it.
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
		"a/b": size(1), "a-b": size(2), "a.b": size(3), "a b": size(4), // directories sort by bytes too: a-b, a.b, a/b
		"with space ": size(5), "new\nline": size(6), "back\\slash": size(7), "carriage\rreturn": size(8),
		"all\\of\nthem\r": size(9), "tab\tbed": size(10), "esc\x1b[31m": size(11), `"quoted" 'name'`: size(12),
		"ünïcödé 日本": size(13), "-dash": size(14), "*?[glob]": size(15), "%d%s": size(16),
		".hidden": size(17), ".hidden dir/.deeper": size(18), "new\nline dir/x\\y": size(19),
		strings.Repeat("deep/", 50) + "down": size(20), strings.Repeat("n", 255): size(21),
		strings.Repeat(strings.Repeat("d", 200)+"/", 8) + "long path": size(22),
	}
	if runtime.GOOS != "darwin" { // where names are UTF-8
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

// sums is the output for files.
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

func TestOutputIsThatOfSha256sum(t *testing.T) {
	dir, want := oddTree(t)
	t.Run("the test's own idea of it", func(t *testing.T) {
		cmd := exec.Command("sh", "-c", "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum")
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil || !bytes.Contains(out, []byte(`carriage\rreturn`)) {
			t.Skip("no sha256sum of GNU coreutils 9 here")
		}
		assert.Equal(t, string(out), want)
	})
	for _, flags := range []string{
		"", "-workers 1", "-workers 8", "-transport uds -workers 3", "-transport tcp", "-transport tcp -workers 8",
		"-method exec", "-workers 1000",
	} {
		t.Run("flags "+flags, func(t *testing.T) {
			got := runProgram(t, leakCheck, append(strings.Fields(flags), dir)...)
			assert.Equal(t, want, got.stdout)
			assert.Empty(t, got.stderr)
			assert.Zero(t, got.code)
		})
	}
}

func TestWorkersThatDieAreReplaced(t *testing.T) {
	dir, want := oddTree(t)
	for _, c := range []struct {
		flags               string
		minDeaths, maxDeath int // a worker that boots late may find nothing left to do
	}{
		{"-workers 1 -crash-after 1", 1, 1},
		{"-workers 1 -crash-after 5 -transport tcp", 1, 1},
		{"-workers 2 -crash-after 5", 1, 2},
		{"-workers 8 -crash-after 1 -transport tcp", 1, 8},
		{"-workers 1 -crash-after 100000", 0, 0},
	} {
		t.Run("flags "+c.flags, func(t *testing.T) {
			got := runProgram(t, leakCheck, append(strings.Fields(c.flags), dir)...)
			assert.Equal(t, want, got.stdout)
			assert.Zero(t, got.code)
			lines := strings.Count(got.stderr, "\n")
			assert.True(t, c.minDeaths <= lines && lines <= c.maxDeath, got.stderr)
			assert.Equal(t, lines, strings.Count(got.stderr, "signal: killed; it was at "), got.stderr)
		})
	}
}

func TestFileThatKillsItsWorkersIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"before", "poison", "with\npoison", "zuletzt"} {
		write(t, filepath.Join(dir, name), nil)
	}
	got := runProgram(t, poison, "-workers", "2", dir)
	assert.Equal(t, 1, got.code)
	assert.Regexp(t, `^0{64}  \./before\n0{64}  \./zuletzt\n$`, got.stdout)
	assert.Equal(t, maxDeaths, strings.Count(got.stderr, `exit status 7; it was at "./poison"`), got.stderr)
	assert.Equal(t, maxDeaths, strings.Count(got.stderr, `exit status 7; it was at "./with\npoison"`), got.stderr)
	assert.Contains(t, got.stderr, "treehash: \"./poison\": given up, as 3 workers died of it\n")
	assert.Equal(t, 2*maxDeaths+2, strings.Count(got.stderr, "\n"), got.stderr)
}

func TestWorkersThatCannotBootEndTheRun(t *testing.T) {
	dir, _ := oddTree(t)
	got := runProgram(t, nothingReg, "-workers", "4", dir)
	assert.Equal(t, 1, got.code)
	assert.Empty(t, got.stdout)
	assert.Equal(t, 1, strings.Count(got.stderr, "treehash: forkspawn: spawn "), got.stderr)
	assert.Contains(t, got.stderr, `unknown entry "hash"`)
}

func TestUnreadableFilesAreToldAndTheRestIsPrinted(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	readable := map[string][]byte{"a": []byte("a"), "z": []byte("z")}
	for path, content := range readable {
		write(t, filepath.Join(dir, path), content)
	}
	write(t, filepath.Join(dir, "locked"), []byte("secret"))
	write(t, filepath.Join(dir, "locked dir/x"), []byte("secret"))
	require.NoError(t, os.Chmod(filepath.Join(dir, "locked"), 0))
	require.NoError(t, os.Chmod(filepath.Join(dir, "locked dir"), 0))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "locked dir"), 0o755) })

	cmd, tmp := program(t, asItIs, dir)
	if os.Getuid() == 0 {
		becomeNobody(t, cmd, tmp) // nothing is locked for root
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Start()
	if errors.Is(err, fs.ErrPermission) {
		t.Skip("cannot run as another user here: ", err)
	}
	require.NoError(t, err)
	assert.Equal(t, 1, wait(t, cmd))
	assert.Equal(t, sums(readable), stdout.String())
	assert.ElementsMatch(t, []string{
		`treehash: "./locked": permission denied`,
		`treehash: "./locked dir": permission denied`,
	}, strings.Split(strings.TrimSpace(stderr.String()), "\n"))
	assertEmpty(t, tmp)
}

// becomeNobody lets cmd run as a user who is not root, from a copy that this user can reach.
func becomeNobody(t testing.TB, cmd *exec.Cmd, tmp string) {
	t.Helper()
	const nobody = 65534
	bin, err := os.MkdirTemp("", "treehash-bin")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(bin) })
	require.NoError(t, os.Chmod(bin, 0o755))
	from, err := os.Open(cmd.Path)
	require.NoError(t, err)
	defer from.Close()
	cmd.Path = filepath.Join(bin, "treehash")
	to, err := os.OpenFile(cmd.Path, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, errors.Join(err, to.Close()))
	require.NoError(t, os.Chown(tmp, nobody, nobody))
	require.NoError(t, os.Chown(bin, nobody, nobody))
	cmd.Dir = "/"
	cmd.Env = append(cmd.Env, "GOCOVERDIR="+bin) // else go test -cover complains on stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

func TestDirCanBeWrittenInAnyWay(t *testing.T) {
	above := t.TempDir()
	files := map[string][]byte{"a": []byte("a"), "sub/b": []byte("b")}
	for path, content := range files {
		write(t, filepath.Join(above, "dir", path), content)
	}
	require.NoError(t, os.Mkdir(filepath.Join(above, "other"), 0o755))
	require.NoError(t, os.Symlink("../dir/sub", filepath.Join(above, "other", "sub")))
	require.NoError(t, os.Symlink("dir", filepath.Join(above, "link")))
	require.NoError(t, os.Symlink("dir", filepath.Join(above, "l\xffnk")))
	for _, c := range []struct{ from, dir string }{
		{"dir", "."}, {"dir", "./"}, {"other", "../dir"}, {"dir/sub", ".."}, {".", "dir/"}, {".", ".//dir/./"},
		{".", filepath.Join(above, "dir")}, {".", "link"}, {".", "link/"}, {".", "other/sub/.."}, {".", "l\xffnk"},
	} {
		t.Run(fmt.Sprintf("%q in %s", c.dir, c.from), func(t *testing.T) {
			cmd, tmp := program(t, asItIs, c.dir)
			cmd.Dir = filepath.Join(above, c.from)
			out, err := cmd.Output()
			assert.NoError(t, err)
			assert.Equal(t, sums(files), string(out))
			assertEmpty(t, tmp)
		})
	}
	t.Run("no file in it", func(t *testing.T) {
		assert.Equal(t, result{}, runProgram(t, leakCheck, t.TempDir()))
	})
}

func TestWrongUseIsExplained(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, nil)
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "want one directory, got 0 arguments"},
		{[]string{dir, dir}, "want one directory, got 2 arguments"},
		{[]string{filepath.Join(dir, "missing")}, "missing: no such file or directory"},
		{[]string{""}, "no such file or directory"},
		{[]string{file}, "file: not a directory"},
		{[]string{file + "/"}, "not a directory"},
		{[]string{"-workers", "0", dir}, "-workers 0: want 1 or more"},
		{[]string{"-workers", "-3", dir}, "-workers -3: want 1 or more"},
		{[]string{"-workers", "many", dir}, `invalid value "many" for flag -workers`},
		{[]string{"-crash-after", "-1", dir}, "-crash-after -1: want 0 or more"},
		{[]string{"-transport", "pigeon", dir}, `-transport "pigeon": want uds or tcp`},
		{[]string{"-method", "spoon", dir}, `start method "spoon": no such start method; use "exec"`},
		{[]string{"-method", "livefork", dir}, `start method "livefork": the name is reserved`},
		{[]string{"-nonsense", dir}, "flag provided but not defined: -nonsense"},
	} {
		t.Run(strings.ReplaceAll(strings.Join(c.args, " "), dir, "DIR"), func(t *testing.T) {
			got := runProgram(t, asItIs, c.args...)
			assert.Equal(t, 2, got.code)
			assert.Empty(t, got.stdout)
			assert.Contains(t, got.stderr, c.want)
		})
	}
	t.Run("-h is no error", func(t *testing.T) {
		got := runProgram(t, asItIs, "-h")
		assert.Zero(t, got.code)
		assert.Contains(t, got.stderr, "usage: treehash [flags] DIR")
	})
}

// longTree makes a tree whose output is larger than a pipe holds.
func longTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 500 {
		write(t, filepath.Join(dir, fmt.Sprintf("%0200d", i)), nil)
	}
	return dir
}

func TestReaderThatGoesAwayEndsItQuietly(t *testing.T) {
	for _, when := range []string{"at once", "in the middle"} {
		t.Run(when, func(t *testing.T) {
			cmd, tmp := program(t, asItIs, longTree(t))
			r, w, err := os.Pipe()
			require.NoError(t, err)
			defer r.Close()
			var stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = w, &stderr
			if when == "at once" {
				r.Close()
			}
			require.NoError(t, cmd.Start())
			w.Close()
			if when == "in the middle" {
				_, err := io.ReadFull(r, make([]byte, 100))
				assert.NoError(t, err)
				r.Close()
			}
			assert.Zero(t, wait(t, cmd))
			assert.Empty(t, stderr.String())
			assertEmpty(t, tmp)
		})
	}
	t.Run("and so does one of stderr", func(t *testing.T) {
		dir, want := oddTree(t)
		cmd, tmp := program(t, asItIs, "-crash-after", "1", dir)
		r, w, err := os.Pipe()
		require.NoError(t, err)
		r.Close()
		var stdout bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, w
		require.NoError(t, cmd.Start())
		w.Close()
		assert.Zero(t, wait(t, cmd))
		assert.Equal(t, want, stdout.String())
		assertEmpty(t, tmp)
	})
}

func TestSignalEndsItEvenWhileNobodyReadsItsOutput(t *testing.T) {
	cmd, tmp := program(t, asItIs, longTree(t))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cmd.Stdout = w
	require.NoError(t, cmd.Start())
	w.Close()
	_, err = io.ReadFull(r, make([]byte, 1)) // so it has begun to write, and cannot end
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 143, wait(t, cmd))
	assertEmpty(t, tmp)
}
