//go:build linux || darwin

package unixsock

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// usePlace makes NewDir work in a new directory, and returns that directory.
func usePlace(t *testing.T) string {
	t.Helper()
	dir := testkit.ShortDir(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	return dir
}

// setSweepAge sets the age for a sweep. With a negative one all directories are old
// enough.
func setSweepAge(t *testing.T, age time.Duration) {
	t.Helper()
	old := sweepAge
	sweepAge = age
	t.Cleanup(func() { sweepAge = old })
}

func requireSocket(t testing.TB, path string) {
	t.Helper()
	fi, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket, fi.Mode().Type())
}

func TestDir_IsPrivate(t *testing.T) {
	place := usePlace(t)
	d := mustNewDir(t)
	assert.Equal(t, place, filepath.Dir(d.Path()))
	assert.True(t, isDirName(filepath.Base(d.Path())), d.Path())
	fi, err := os.Lstat(d.Path())
	require.NoError(t, err)
	assert.Equal(t, fs.ModeDir|0o700, fi.Mode()&(fs.ModeType|fs.ModePerm))
	assert.True(t, isOurs(fi))
}

func TestDir_Places(t *testing.T) {
	good := testkit.ShortDir(t)
	long := filepath.Join(testkit.ShortDir(t), strings.Repeat("x", 200))
	require.NoError(t, os.Mkdir(long, 0o700))
	file := filepath.Join(testkit.ShortDir(t), "file")
	testkit.WriteFile(t, file, "")
	missing := filepath.Join(testkit.ShortDir(t), "missing")
	for name, tc := range map[string]struct{ xdg, tmp, want string }{
		"the runtime directory comes first":     {good, "/tmp", good},
		"unset runtime directory":               {"", good, good},
		"missing runtime directory":             {missing, good, good},
		"relative runtime directory":            {"run", good, good},
		"runtime directory that is a file":      {file, good, good},
		"runtime directory of 200 characters":   {long, good, good},
		"temporary directory of 200 characters": {"", long, "/tmp"},
		"missing temporary directory":           {"", missing, "/tmp"},
		"temporary directory that is a file":    {missing, file, "/tmp"},
		"nothing set at all":                    {"", "", "/tmp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", tc.xdg)
			t.Setenv("TMPDIR", tc.tmp)
			d := mustNewDir(t)
			assert.Equal(t, tc.want, filepath.Dir(d.Path()))
			listen(t, d.Socket("s"))
		})
	}
	left, err := os.ReadDir(long)
	require.NoError(t, err)
	assert.Empty(t, left, "an unsuitable place stays empty")
}

func TestDir_PlaceWithoutSocketsIsSkipped(t *testing.T) {
	bad, good := testkit.ShortDir(t), testkit.ShortDir(t)
	old := probe
	defer func() { probe = old }()
	probe = func(path string) error {
		if strings.HasPrefix(path, bad) {
			return syscall.EPERM // as on FAT
		}
		return old(path)
	}
	d, err := newDirIn([]place{{name: "first", dir: bad}, {name: "second", dir: good}})
	require.NoError(t, err)
	defer d.Remove()
	assert.Equal(t, good, filepath.Dir(d.Path()))
	left, err := os.ReadDir(bad)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// Cleaners of temporary directories remove old files.
func TestDir_StaysYoung(t *testing.T) {
	oldInterval := refreshInterval
	refreshInterval = 10 * time.Millisecond
	t.Cleanup(func() { refreshInterval = oldInterval }) // after the removal of the directory
	d := mustNewDir(t)
	listen(t, d.Socket("s"))
	long := time.Now().Add(-30 * 24 * time.Hour)
	names := []string{d.Path(), d.Socket("s"), filepath.Join(d.Path(), lockName)}
	for _, name := range names {
		require.NoError(t, os.Chtimes(name, long, long))
	}
	testkit.Eventually(t, "the files are young", func() bool {
		for _, name := range names {
			if fi, err := os.Lstat(name); err != nil || time.Since(fi.ModTime()) > 24*time.Hour {
				return false
			}
		}
		return true
	})
}

func TestDir_SharedLetsOtherUsersConnect(t *testing.T) {
	testkit.NeedRoot(t)
	usePlace(t)
	for _, shared := range []bool{false, true} {
		makeDir := NewDir
		if shared {
			makeDir = NewSharedDir
		}
		d, err := makeDir()
		require.NoError(t, err)
		defer d.Remove()
		listen(t, d.Socket("s"))
		require.NoError(t, os.Chmod(d.Socket("s"), 0o666))
		testkit.AsNobody(t, func() {
			conn, err := net.Dial("unix", d.Socket("s"))
			if assert.Equal(t, shared, err == nil, err) && err == nil {
				conn.Close()
			}
		})
	}
}

func TestDir_NoPlaceWorks(t *testing.T) {
	dir := testkit.ShortDir(t)
	file := filepath.Join(dir, "file")
	testkit.WriteFile(t, file, "")
	long := filepath.Join(dir, strings.Repeat("x", 200))
	missing := filepath.Join(dir, "missing")
	_, err := newDirIn([]place{
		{name: "first", dir: missing}, {name: "second", dir: long}, {name: "third", dir: file},
		{name: "fourth", dir: "relative"},
	})
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, part := range []string{
		"first " + missing,
		"second " + long,
		fmt.Sprintf("has %d bytes", len(long)+len("/spawnwire-0123456789/")+maxShortName),
		"third " + file,
		"fourth relative: not an absolute path",
	} {
		assert.ErrorContains(t, err, part)
	}
}

func TestDir_RuntimeDirectoryOfAnotherUser(t *testing.T) {
	testkit.NeedRoot(t) // to give a directory away
	dir := testkit.ShortDir(t)
	require.NoError(t, os.Chown(dir, 65534, 65534))
	_, err := newDirIn([]place{{name: "$XDG_RUNTIME_DIR", dir: dir, own: true}})
	assert.ErrorContains(t, err, "another user")
}

func TestDir_Sockets(t *testing.T) {
	d := mustNewDir(t)
	assert.Equal(t, filepath.Join(d.Path(), "parent"), d.Socket("parent"))
	assert.Equal(t, filepath.Join(d.Path(), "@x"), d.Socket("@x"), "a file like any other")
	for _, name := range []string{"", ".", "..", "a/b", "/a", "a/", "../a"} {
		assert.Empty(t, d.Socket(name), name)
	}
	listen(t, d.Socket("parent"))
	listen(t, d.Socket(strings.Repeat("x", maxShortName)))
}

func TestDir_Remove(t *testing.T) {
	d := mustNewDir(t)
	listen(t, d.Socket("s"))
	require.NoError(t, d.Remove())
	assert.NoDirExists(t, d.Path())
	assert.NoError(t, d.Remove(), "a second time")
}

func TestDir_RemoveKeepsOtherFiles(t *testing.T) {
	d := mustNewDir(t)
	listen(t, d.Socket("s"))
	keep := filepath.Join(d.Path(), "notes.txt")
	testkit.WriteFile(t, keep, "precious")
	err := d.Remove()
	assert.ErrorIs(t, err, ErrNotSocket)
	assert.ErrorContains(t, err, "notes.txt")
	assert.Equal(t, "precious", testkit.ReadFile(t, keep))
	assert.NoFileExists(t, d.Socket("s"))

	require.NoError(t, os.Remove(keep))
	assert.NoError(t, d.Remove(), "again, without the file")
	assert.NoDirExists(t, d.Path())
}

func TestDir_LeaksNoDescriptors(t *testing.T) {
	usePlace(t)
	count := func() int {
		open, err := os.ReadDir("/dev/fd")
		require.NoError(t, err)
		return len(open)
	}
	before := count()
	for range 50 {
		d, err := NewDir()
		require.NoError(t, err)
		require.NoError(t, d.Remove())
	}
	assert.Less(t, count(), before+25, "other tests may have left or opened some")
}

func TestBeside_IsInAPrivateDirectory(t *testing.T) {
	dir := mustNewDir(t)
	assert.Equal(t, dir.Socket("t"), Beside(dir.Socket("s"), "t"))
	assert.Empty(t, Beside(dir.Socket("s"), "../t"))
	for _, path := range []string{"/tmp/x/s", "@name", "/tmp/spawnwire-/s", "/tmp/spawnwire-x/s",
		"/tmp/spawnwire-12345678901/s", "127.0.0.1:1"} {
		assert.Empty(t, Beside(path, "t"), path)
	}
}

func TestBeside_RemoveLeavesBoundSocketsOfOthers(t *testing.T) {
	dir := mustNewDir(t)
	listen(t, dir.Socket("s"))
	testkit.StaleSocket(t, dir.Socket("other-1"))
	RemoveBeside(dir.Socket("s"), "child-")
	assert.FileExists(t, dir.Socket("other-1"), "the child left no socket, so nobody was killed")
	testkit.StaleSocket(t, dir.Socket("child-1"))
	testkit.StaleSocket(t, dir.Socket("child-2"))
	RemoveBeside(dir.Socket("s"), "child-")
	for _, name := range []string{"child-1", "child-2", "other-1"} {
		assert.NoFileExists(t, dir.Socket(name))
	}
	assert.FileExists(t, dir.Socket("s"))
	RemoveBeside(filepath.Join(t.TempDir(), "s"), "s") // not in a private directory
}

func TestSweep_RemovesDirectoriesOfKilledOwners(t *testing.T) {
	place := usePlace(t)
	setSweepAge(t, -time.Hour)

	live := startChild(t, "owns-dir")
	liveDir := live.line(t)
	killed := startChild(t, "owns-dir")
	killedDir := killed.line(t)
	require.Equal(t, place, filepath.Dir(killedDir))
	killed.kill()
	requireSocket(t, filepath.Join(killedDir, "s"))

	mine := mustNewDir(t)
	assert.NoDirExists(t, killedDir)
	requireSocket(t, filepath.Join(liveDir, "s"))
	conn, err := net.Dial("unix", filepath.Join(liveDir, "s"))
	require.NoError(t, err)
	conn.Close()

	second := mustNewDir(t)
	assert.DirExists(t, mine.Path(), "a sweep leaves other directories of its own process")
	require.NoError(t, second.Remove())

	require.NoError(t, live.stdin.Close())
	require.NoError(t, live.cmd.Wait())
	assert.NoDirExists(t, liveDir)
}

func TestSweep_LeavesOthersAlone(t *testing.T) {
	old := time.Now().Add(-2 * sweepAge)
	age := func(t *testing.T, dir string) { require.NoError(t, os.Chtimes(dir, old, old)) }
	stale := func(t *testing.T, dir string) {
		testkit.WriteFile(t, filepath.Join(dir, lockName), "")
		testkit.StaleSocket(t, filepath.Join(dir, "s"))
	}
	chmod := func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o750)) }
	file := func(t *testing.T, dir string) { testkit.WriteFile(t, filepath.Join(dir, "f"), "") }
	subdir := func(t *testing.T, dir string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	}
	lockDir := func(t *testing.T, dir string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, lockName), 0o700))
	}
	lockPipe := func(t *testing.T, dir string) {
		require.NoError(t, unix.Mkfifo(filepath.Join(dir, lockName), 0o600))
	}
	socketOnly := func(t *testing.T, dir string) { testkit.StaleSocket(t, filepath.Join(dir, "s")) }
	bound := func(t *testing.T, dir string) { listen(t, filepath.Join(dir, "bound")) }
	many := func(t *testing.T, dir string) {
		for i := range sweepEntries {
			require.NoError(t,
				unix.Mknod(filepath.Join(dir, fmt.Sprint("s", i)), unix.S_IFSOCK|0o600, 0))
		}
	}
	locked := func(t *testing.T, dir string) {
		release, err := claim(dir)
		require.NoError(t, err)
		t.Cleanup(release)
		testkit.StaleSocket(t, filepath.Join(dir, "s"))
	}
	type steps []func(t *testing.T, dir string)
	for name, tc := range map[string]struct {
		base  string // "" for a name of NewDir
		setUp steps
		goes  bool
	}{
		"old, with a free lock":            {"", steps{stale, age}, true},
		"old and empty":                    {"", steps{age}, true},
		"young":                            {"", steps{stale}, false},
		"another mode":                     {"", steps{stale, chmod, age}, false},
		"another name":                     {"spawnwire-logs", steps{stale, age}, false},
		"another name with digits":         {"spawnwire-12x4", steps{stale, age}, false},
		"the bare prefix":                  {"spawnwire-", steps{stale, age}, false},
		"a file inside":                    {"", steps{stale, file, age}, false},
		"a directory inside":               {"", steps{stale, subdir, age}, false},
		"a directory as the lock":          {"", steps{lockDir, age}, false},
		"a named pipe as the lock":         {"", steps{lockPipe, age}, false},
		"sockets without a lock":           {"", steps{socketOnly, age}, false},
		"a bound socket":                   {"", steps{stale, bound, age}, false},
		"more entries than a sweep counts": {"", steps{stale, many, age}, false},
		"a lock that is held":              {"", steps{locked, age}, false},
	} {
		t.Run(name, func(t *testing.T) {
			place := usePlace(t)
			base := tc.base
			if base == "" {
				base = "spawnwire-1234567890"
			}
			dir := filepath.Join(place, base)
			require.NoError(t, os.Mkdir(dir, 0o700))
			for _, step := range tc.setUp {
				step(t, dir)
			}
			before, err := os.ReadDir(dir)
			require.NoError(t, err)
			mustNewDir(t)
			if tc.goes {
				assert.NoDirExists(t, dir)
				return
			}
			after, err := os.ReadDir(dir)
			require.NoError(t, err)
			assert.Equal(t, fmt.Sprint(before), fmt.Sprint(after))
		})
	}
}

func TestSweep_LeavesDirectoriesOfOtherUsers(t *testing.T) {
	testkit.NeedRoot(t) // to give a directory away
	place := usePlace(t)
	setSweepAge(t, -time.Hour)
	dir := filepath.Join(place, "spawnwire-1")
	require.NoError(t, os.Mkdir(dir, 0o700))
	testkit.WriteFile(t, filepath.Join(dir, lockName), "")
	require.NoError(t, os.Chown(dir, 65534, 65534))
	mustNewDir(t)
	assert.DirExists(t, dir)
}

func TestSweep_FollowsNoLink(t *testing.T) {
	place := usePlace(t)
	setSweepAge(t, -time.Hour)
	target := testkit.ShortDir(t)
	testkit.WriteFile(t, filepath.Join(target, lockName), "")
	testkit.StaleSocket(t, filepath.Join(target, "s"))
	require.NoError(t, os.Symlink(target, filepath.Join(place, "spawnwire-1")))
	mustNewDir(t)
	requireSocket(t, filepath.Join(target, "s"))
}

func TestSweep_IsBounded(t *testing.T) {
	place := usePlace(t)
	setSweepAge(t, -time.Hour)
	for i := range sweepDirs + 10 {
		require.NoError(t, os.Mkdir(filepath.Join(place, fmt.Sprint("spawnwire-", i)), 0o700))
	}
	mustNewDir(t)
	left, err := os.ReadDir(place)
	require.NoError(t, err)
	assert.InDelta(t, 11, len(left), 1, "the sweep may or may not have looked at the new one")
}

func TestDir_ReadOnlyTemporaryDirectory(t *testing.T) {
	testkit.NeedLinux(t)
	readOnly := testkit.ShortDir(t)
	require.NoError(t, os.Chmod(readOnly, 0o555))
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", readOnly)
	testkit.AsNobody(t, func() {
		d, err := NewDir()
		if assert.NoError(t, err) {
			assert.Equal(t, "/tmp", filepath.Dir(d.Path()))
			assert.NoError(t, d.Remove())
		}
		_, err = newDirIn([]place{{name: "only", dir: readOnly}})
		assert.ErrorIs(t, err, os.ErrPermission)
	})
}

// A full disk, for example, may have room for a directory and none for a socket in it.
func TestDir_FailureLeavesNothing(t *testing.T) {
	dir := testkit.ShortDir(t)
	old := probe
	defer func() { probe = old }()
	probe = func(string) error { return syscall.ENOSPC }
	_, err := newDirIn([]place{{name: "only", dir: dir}})
	assert.ErrorIs(t, err, syscall.ENOSPC)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestDir_UmaskDoesNotMatter(t *testing.T) {
	dir := testkit.ShortDir(t)
	require.NoError(t, os.Chmod(dir, 0o777))
	old := syscall.Umask(0o777)
	defer syscall.Umask(old)
	testkit.AsNobody(t, func() {
		d, err := newDirIn([]place{{name: "only", dir: dir}})
		if assert.NoError(t, err) {
			assert.NoError(t, d.Remove())
		}
	})
}
