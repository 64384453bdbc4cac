//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit/sshd"
)

func TestOutput_IsThatOfSha256sum(t *testing.T) {
	dir, want := oddTree(t)
	t.Run("expected by the test", func(t *testing.T) {
		cmd := exec.Command("sh", "-c",
			"find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum")
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil || !bytes.Contains(out, []byte(`carriage\rreturn`)) {
			t.Skip("no sha256sum of GNU coreutils 9 here")
		}
		assert.Equal(t, string(out), want)
	})
	for _, flags := range []string{
		"", "-workers 1", "-workers 8", "-transport uds -workers 3", "-transport tcp",
		"-transport tcp -workers 8",
		"-method exec",
	} {
		t.Run("flags "+flags, func(t *testing.T) {
			got := runProgram(t, leakCheck, append(strings.Fields(flags), dir)...)
			assert.Equal(t, want, got.stdout)
			assert.Empty(t, got.stderr)
			assert.Zero(t, got.code)
		})
	}
}

func TestOutput_WithMoreWorkersThanFiles(t *testing.T) {
	dir := t.TempDir()
	files := map[string][]byte{"a": []byte("1"), "b": nil, "c": []byte("3")}
	for path, content := range files {
		write(t, filepath.Join(dir, path), content)
	}
	got := runProgram(t, leakCheck, "-workers", "1000", dir)
	assert.Equal(t, result{sums(files), "", 0}, got)
}

func TestOutput_OnOtherMachines(t *testing.T) {
	dir, want := oddTree(t)
	server := sshd.New(t, fmt.Sprintf(`SetEnv XDG_CACHE_HOME=%s "%s=%s"`,
		t.TempDir(), modeEnv, asItIs))
	bin := t.TempDir()
	script := "#!/bin/sh\nexec " + strings.Join(server.Command, " ") + " \"$@\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	on := "ssh:" + sshd.Name + "," + sshd.Name
	got := runProgram(t, leakCheck, "-on", on, "-workers", "2", "-crash-after", "5", dir)
	assert.Equal(t, want, got.stdout)
	assert.Zero(t, got.code, got.stderr)
}

func TestWorker_IsReplacedAfterDeath(t *testing.T) {
	dir, want := oddTree(t)
	for _, c := range []struct {
		flags               string
		minDeaths, maxDeath int // a worker that boots late may get no file
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
			assert.Equal(t, lines, strings.Count(got.stderr, "signal: killed; it was at "),
				got.stderr)
		})
	}
}

func TestWorker_FileThatKillsItIsSkipped(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"before", "poison", "with\npoison", "zuletzt"} {
		write(t, filepath.Join(dir, name), nil)
	}
	got := runProgram(t, poison, "-workers", "2", dir)
	assert.Equal(t, 1, got.code)
	assert.Regexp(t, `^0{64}  \./before\n0{64}  \./zuletzt\n$`, got.stdout)
	assert.Equal(t, maxDeaths, strings.Count(got.stderr, `exit status 7; it was at "./poison"`),
		got.stderr)
	assert.Equal(t, maxDeaths,
		strings.Count(got.stderr, `exit status 7; it was at "./with\npoison"`), got.stderr)
	assert.Contains(t, got.stderr, "treehash: \"./poison\": given up, as 3 workers died of it\n")
	assert.Equal(t, 2*maxDeaths+2, strings.Count(got.stderr, "\n"), got.stderr)
}

func TestWorker_CannotBoot(t *testing.T) {
	dir, _ := oddTree(t)
	got := runProgram(t, nothingReg, "-workers", "4", dir)
	assert.Equal(t, 1, got.code)
	assert.Empty(t, got.stdout)
	assert.Equal(t, 1, strings.Count(got.stderr, "treehash: forkspawn: spawn "), got.stderr)
	assert.Contains(t, got.stderr, `unknown entry "hash"`)
}

func TestOutput_WithUnreadableFiles(t *testing.T) {
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
		becomeNobody(t, cmd, tmp) // because root can read every file
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

// becomeNobody makes cmd run as a user other than root. It copies the program,
// because this user may not be able to execute the original.
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
	// Otherwise go test -cover prints a warning to stderr.
	cmd.Env = append(cmd.Env, "GOCOVERDIR="+bin)
	user := &syscall.Credential{Uid: nobody, Gid: nobody}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
}

func TestUsage_AnySpellingOfDir(t *testing.T) {
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
		{"dir", "."}, {"dir", "./"}, {"other", "../dir"}, {"dir/sub", ".."}, {".", "dir/"},
		{".", ".//dir/./"},
		{".", filepath.Join(above, "dir")}, {".", "link"}, {".", "link/"}, {".", "other/sub/.."},
		{".", "l\xffnk"},
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

func TestUsage_Errors(t *testing.T) {
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
		{[]string{"-method", "spoon", dir},
			`start method "spoon": no such start method; use "exec"`},
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

// longTree creates a tree with more output than the buffer of a pipe holds.
func longTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 500 {
		write(t, filepath.Join(dir, fmt.Sprintf("%0200d", i)), nil)
	}
	return dir
}

func TestOutput_ReaderGoesAway(t *testing.T) {
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
	t.Run("of stderr", func(t *testing.T) {
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

func TestSignal_WhileOutputIsBlocked(t *testing.T) {
	cmd, tmp := program(t, asItIs, longTree(t))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cmd.Stdout = w
	require.NoError(t, cmd.Start())
	w.Close()
	_, err = io.ReadFull(r, make([]byte, 1)) // it has begun to write and cannot finish
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 143, wait(t, cmd))
	assertEmpty(t, tmp)
}
