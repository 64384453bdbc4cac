//go:build linux || darwin

package uds

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// usePlace makes NewDir work in a directory of the test's own.
func usePlace(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	return dir
}

// setSweepAge makes directories old enough to be swept; a negative age means all of them.
func setSweepAge(t *testing.T, age time.Duration) {
	t.Helper()
	old := sweepAge
	sweepAge = age
	t.Cleanup(func() { sweepAge = old })
}

func TestDirIsPrivate(t *testing.T) {
	place := usePlace(t)
	d := mustNewDir(t)
	assert.Equal(t, place, filepath.Dir(d.Path()))
	assert.True(t, isDirName(filepath.Base(d.Path())), d.Path())
	fi, err := os.Lstat(d.Path())
	require.NoError(t, err)
	assert.Equal(t, fs.ModeDir|0o700, fi.Mode()&(fs.ModeType|fs.ModePerm))
	st := fi.Sys().(*syscall.Stat_t)
	assert.Equal(t, os.Geteuid(), int(st.Uid))
}

func TestDirPlaces(t *testing.T) {
	good := shortDir(t)
	long := filepath.Join(shortDir(t), strings.Repeat("x", 200))
	require.NoError(t, os.Mkdir(long, 0o700))
	file := filepath.Join(shortDir(t), "file")
	writeFile(t, file, "")
	missing := filepath.Join(shortDir(t), "missing")
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
			requireAnswers(t, mustListen(t, d.Addr("s")), d.Addr("s"))
		})
	}
	left, err := os.ReadDir(long)
	require.NoError(t, err)
	assert.Empty(t, left, "what was tried and given up leaves nothing")
}

func TestRuntimeDirectoryOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	dir := shortDir(t)
	require.NoError(t, os.Chown(dir, 65534, 65534))
	_, err := newDirIn([]place{{name: "$XDG_RUNTIME_DIR", dir: dir, own: true}})
	assert.ErrorContains(t, err, "another user")
}

// The owner's sign of life must not keep others from listening in the directory.
func TestChildrenCanListenInTheDirOfTheirParent(t *testing.T) {
	d := mustNewDir(t)
	c := startChild(t, "race", []string{"UDS_TEST_PATH=" + d.Addr("s").Target}, os.Stdin)
	require.Equal(t, "ready", c.line(t))
	require.Equal(t, "won", c.line(t))
}

func TestSweep(t *testing.T) {
	place := usePlace(t)
	setSweepAge(t, -time.Hour)

	live := startChild(t, "dir", nil)
	liveDir := live.line(t)
	killed := startChild(t, "dir", nil)
	killedDir := killed.line(t)
	require.Equal(t, place, filepath.Dir(killedDir))
	killed.kill()
	requireSocketFile(t, filepath.Join(killedDir, "s"))

	mine := mustNewDir(t)
	assert.NoDirExists(t, killedDir, "the owner was killed")
	requireSocketFile(t, filepath.Join(liveDir, "s"))
	conn, err := Dial(testContext(t), pathAddr(filepath.Join(liveDir, "s")))
	require.NoError(t, err)
	conn.Close()

	second := mustNewDir(t)
	assert.DirExists(t, mine.Path(), "the sweep of one Dir leaves another of the same process")
	require.NoError(t, second.Remove())

	require.NoError(t, live.stdin.Close())
	require.NoError(t, live.cmd.Wait())
	assert.NoDirExists(t, liveDir)
}

func TestSweepLeavesAlone(t *testing.T) {
	old := time.Now().Add(-2 * sweepAge)
	type setup func(t *testing.T, dir string)
	age := func(t *testing.T, dir string) { require.NoError(t, os.Chtimes(dir, old, old)) }
	stale := func(t *testing.T, dir string) {
		writeFile(t, filepath.Join(dir, lockName), "")
		makeStale(t, filepath.Join(dir, "s"))
	}
	for name, tc := range map[string]struct {
		base  string // "" for one that NewDir could have made
		setup []setup
		goes  bool
	}{
		"nothing of what is dead and old":     {"", []setup{stale, age}, true},
		"nothing of what is empty and old":    {"", []setup{age}, true},
		"what is young":                       {"", []setup{stale}, false},
		"another mode":                        {"", []setup{stale, func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o750)) }, age}, false},
		"another name":                        {"spawnwire-logs", []setup{stale, age}, false},
		"another name with digits":            {"spawnwire-12x4", []setup{stale, age}, false},
		"the bare prefix":                     {"spawnwire-", []setup{stale, age}, false},
		"a file":                              {"", []setup{stale, func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "f"), "") }, age}, false},
		"a directory inside":                  {"", []setup{stale, func(t *testing.T, dir string) { require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o700)) }, age}, false},
		"a directory in the lock's place":     {"", []setup{func(t *testing.T, dir string) { require.NoError(t, os.Mkdir(filepath.Join(dir, lockName), 0o700)) }, age}, false},
		"a named pipe in the lock's place":    {"", []setup{func(t *testing.T, dir string) { require.NoError(t, unix.Mkfifo(filepath.Join(dir, lockName), 0o600)) }, age}, false},
		"sockets without a lock file":         {"", []setup{func(t *testing.T, dir string) { makeStale(t, filepath.Join(dir, "s")) }, age}, false},
		"a live socket of a dead owner":       {"", []setup{stale, func(t *testing.T, dir string) { mustListen(t, pathAddr(filepath.Join(dir, "live"))) }, age}, false},
		"more entries than a sweep may count": {"", []setup{stale, func(t *testing.T, dir string) { manySockets(t, dir, sweepEntries) }, age}, false},
		"a lock that somebody holds": {"", []setup{func(t *testing.T, dir string) {
			release, err := claim(dir)
			require.NoError(t, err)
			t.Cleanup(release)
			makeStale(t, filepath.Join(dir, "s"))
		}, age}, false},
	} {
		t.Run(name, func(t *testing.T) {
			place := usePlace(t)
			base := tc.base
			if base == "" {
				base = "spawnwire-1234567890"
			}
			dir := filepath.Join(place, base)
			require.NoError(t, os.Mkdir(dir, 0o700))
			for _, f := range tc.setup {
				f(t, dir)
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

func TestSweepLeavesWhatBelongsToAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	place := usePlace(t)
	setSweepAge(t, -time.Hour)
	dir := filepath.Join(place, "spawnwire-1")
	require.NoError(t, os.Mkdir(dir, 0o700))
	writeFile(t, filepath.Join(dir, lockName), "")
	require.NoError(t, os.Chown(dir, 65534, 65534))
	mustNewDir(t)
	assert.DirExists(t, dir)
}

// A symbolic link leads to what may be somebody else's.
func TestSweepFollowsNoLink(t *testing.T) {
	place := usePlace(t)
	setSweepAge(t, -time.Hour)
	target := shortDir(t)
	writeFile(t, filepath.Join(target, lockName), "")
	makeStale(t, filepath.Join(target, "s"))
	require.NoError(t, os.Symlink(target, filepath.Join(place, "spawnwire-1")))
	mustNewDir(t)
	requireSocketFile(t, filepath.Join(target, "s"))
}

func TestSweepIsBounded(t *testing.T) {
	place := usePlace(t)
	setSweepAge(t, -time.Hour)
	for i := range sweepDirs + 10 {
		require.NoError(t, os.Mkdir(filepath.Join(place, fmt.Sprint("spawnwire-", i)), 0o700))
	}
	mustNewDir(t)
	left, err := os.ReadDir(place)
	require.NoError(t, err)
	assert.InDelta(t, 11, len(left), 1, "the new one is or is not among those that were looked at")
}

func manySockets(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		require.NoError(t, unix.Mknod(filepath.Join(dir, fmt.Sprint("s", i)), unix.S_IFSOCK|0o600, 0))
	}
}

func TestNewDirDoesNotLeakDescriptors(t *testing.T) {
	usePlace(t)
	fds := func() int {
		open, err := os.ReadDir("/dev/fd")
		require.NoError(t, err)
		return len(open)
	}
	before := fds()
	for range 50 {
		d, err := NewDir()
		require.NoError(t, err)
		l, err := Listen(testContext(t), d.Addr("s"))
		require.NoError(t, err)
		require.NoError(t, l.Close())
		require.NoError(t, d.Remove())
	}
	assert.Less(t, fds(), before+25, "the lot of other tests may come or go")
}
