//go:build linux || darwin

package uds

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// makeStale leaves a socket file that nobody is bound to, as a killed process does.
func makeStale(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	requireSocketFile(t, path)
}

func requireSocketFile(t testing.TB, path string) {
	t.Helper()
	fi, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket, fi.Mode().Type())
}

func TestDialErrorsKeepTheirCause(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	_, err := Dial(testContext(t), pathAddr(path))
	assert.ErrorIs(t, err, fs.ErrNotExist)
	makeStale(t, path)
	_, err = Dial(testContext(t), pathAddr(path))
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	requireSocketFile(t, path)
}

func TestStaleSocketIsReplaced(t *testing.T) {
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	makeStale(t, addr.Target)
	requireAnswers(t, mustListen(t, addr), addr)
}

func TestLiveSocketStays(t *testing.T) {
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	l := mustListen(t, addr)
	_, err := Listen(testContext(t), addr)
	assert.ErrorIs(t, err, ErrInUse)
	assert.ErrorIs(t, err, syscall.EADDRINUSE)
	assert.ErrorContains(t, err, addr.Target)
	requireAnswers(t, l, addr) // and what it accepts is this and no probe
}

// What holds a socket file without accepting on it is alive, too.
func TestSocketsThatDoNotAnswerStay(t *testing.T) {
	bound := func(t *testing.T, path string, kind int) int {
		fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
		return fd
	}
	for name, setUp := range map[string]func(t *testing.T, path string){
		"a datagram socket":       func(t *testing.T, path string) { bound(t, path, unix.SOCK_DGRAM) },
		"between bind and listen": func(t *testing.T, path string) { bound(t, path, unix.SOCK_STREAM) },
		"a full queue": func(t *testing.T, path string) {
			require.NoError(t, unix.Listen(bound(t, path, unix.SOCK_STREAM), 0))
			fillQueue(t, path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "s")
			setUp(t, path)
			_, err := Listen(testContext(t), pathAddr(path))
			assert.ErrorIs(t, err, ErrInUse)
			requireSocketFile(t, path)
		})
	}
}

// fillQueue connects to the listener at path until the kernel takes no more.
func fillQueue(t *testing.T, path string) {
	t.Helper()
	for range 100 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue has no end")
}

func TestOtherFileTypesStay(t *testing.T) {
	dir := shortDir(t)
	live := filepath.Join(dir, "live")
	mustListen(t, pathAddr(live))
	for name, setUp := range map[string]func(path string) error{
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
		"a named pipe":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a symbolic link": func(path string) error { return os.Symlink(live, path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "x")
			require.NoError(t, setUp(path))
			before, err := os.Lstat(path)
			require.NoError(t, err)
			_, err = Listen(testContext(t), pathAddr(path))
			assert.ErrorIs(t, err, ErrNotSocket)
			assert.ErrorContains(t, err, name)
			after, err := os.Lstat(path)
			require.NoError(t, err)
			assert.True(t, os.SameFile(before, after))
			require.NoError(t, os.Remove(path))
		})
	}
}

func TestCloseRemovesItsOwnFileOnly(t *testing.T) {
	addr := pathAddr(filepath.Join(shortDir(t), "s"))

	l := mustListen(t, addr)
	require.NoError(t, l.Close())
	assert.NoFileExists(t, addr.Target)
	assert.ErrorIs(t, l.Close(), net.ErrClosed)
	_, err := l.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)

	old := mustListen(t, addr)
	require.NoError(t, os.Remove(addr.Target)) // by somebody with a broom
	successor := mustListen(t, addr)
	require.NoError(t, old.Close())
	requireAnswers(t, successor, addr)
	assert.ErrorIs(t, old.Close(), net.ErrClosed)
	requireAnswers(t, successor, addr)

	require.NoError(t, os.Remove(addr.Target))
	assert.NoError(t, successor.Close(), "a missing file is no error")
}

func TestCloseDoesNotWaitForALockThatNobodyGivesBack(t *testing.T) {
	dir := shortDir(t)
	l := mustListen(t, pathAddr(filepath.Join(dir, "s")))
	unlock, err := lockDir(testContext(t), dir)
	require.NoError(t, err)
	defer unlock()
	require.NoError(t, l.Close())
	assert.NoFileExists(t, filepath.Join(dir, "s"))
}

func TestListenWaitsForTheDirectoryUntilItsContextEnds(t *testing.T) {
	dir := shortDir(t)
	addr := pathAddr(filepath.Join(dir, "s"))
	unlock, err := lockDir(testContext(t), dir)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	_, err = Listen(ctx, addr)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, dir)
	assert.NoFileExists(t, addr.Target)

	got := make(chan error, 1)
	go func() {
		l, err := Listen(testContext(t), addr)
		if err == nil {
			err = l.Close()
		}
		got <- err
	}()
	unlock()
	assert.NoError(t, <-got)
}

// Goroutines exclude each other as processes do: the lock is an open file's, not a process's.
func TestOneOfManyGoroutinesTakesOver(t *testing.T) {
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	for range 20 {
		makeStale(t, addr.Target)
		start := make(chan struct{})
		var mu sync.Mutex
		var winners []*Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				<-start
				l, err := Listen(testContext(t), addr)
				if err != nil {
					assert.ErrorIs(t, err, ErrInUse)
					return
				}
				mu.Lock()
				winners = append(winners, l)
				mu.Unlock()
			})
		}
		close(start)
		wg.Wait()
		require.Len(t, winners, 1)
		requireAnswers(t, winners[0], addr)
		require.NoError(t, winners[0].Close())
	}
}

func TestSetDeadline(t *testing.T) {
	l := mustListen(t, pathAddr(filepath.Join(shortDir(t), "s")))
	require.NoError(t, l.SetDeadline(time.Now().Add(-time.Second)))
	_, err := l.Accept()
	assert.True(t, errors.Is(err, os.ErrDeadlineExceeded), err)
}
