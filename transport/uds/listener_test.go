//go:build linux || darwin

package uds

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
)

func requireSocket(t testing.TB, path string) {
	t.Helper()
	fi, err := os.Lstat(path)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket, fi.Mode().Type())
}

// bound binds a socket without package net.
func bound(t *testing.T, path string, kind int) (fd int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	return fd
}

// fillQueue connects to the listener at path until its queue is full.
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

func TestDial_ErrorsKeepTheirCause(t *testing.T) {
	addr := newAddr(t)
	_, err := Dial(testkit.Context(t), addr)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	testkit.StaleSocket(t, addr.Target)
	_, err = Dial(testkit.Context(t), addr)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	requireSocket(t, addr.Target)
}

func TestDial_WaitsWhileTheQueueIsFull(t *testing.T) {
	testkit.NeedLinux(t)
	addr := newAddr(t)
	fd := bound(t, addr.Target, unix.SOCK_STREAM)
	require.NoError(t, unix.Listen(fd, 0))
	fillQueue(t, addr.Target)

	dialed := make(chan error, 1)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	dial := func() {
		conn, err := Dial(ctx, addr)
		if err == nil {
			err = conn.Close()
		}
		dialed <- err
	}
	go dial()
	select {
	case err := <-dialed:
		require.NoError(t, err, "it did not wait")
		require.FailNow(t, "it connected")
	case <-time.After(time.Second): // for several tries
	}
	cancel()
	err := testkit.Receive(t, dialed)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, err, syscall.EAGAIN)

	ctx = testkit.Context(t)
	go dial()
	conn, _, err := unix.Accept(fd)
	require.NoError(t, err)
	defer unix.Close(conn)
	assert.NoError(t, testkit.Receive(t, dialed))
}

func TestListen_StaleSocketIsReplaced(t *testing.T) {
	addr := newAddr(t)
	testkit.StaleSocket(t, addr.Target)
	requireAnswers(t, mustListen(t, addr), addr)
}

func TestListen_LiveSocketStays(t *testing.T) {
	addr := newAddr(t)
	l := mustListen(t, addr)
	_, err := Listen(testkit.Context(t), addr)
	assert.ErrorIs(t, err, ErrInUse)
	assert.ErrorIs(t, err, syscall.EADDRINUSE)
	assert.ErrorContains(t, err, addr.Target)
	requireAnswers(t, l, addr) // the probe made no connection
}

func TestListen_SilentSocketsStay(t *testing.T) {
	for name, setUp := range map[string]func(t *testing.T, path string){
		"a datagram socket": func(t *testing.T, path string) {
			bound(t, path, unix.SOCK_DGRAM)
		},
		"between bind and listen": func(t *testing.T, path string) {
			bound(t, path, unix.SOCK_STREAM)
		},
		"a full queue": func(t *testing.T, path string) {
			require.NoError(t, unix.Listen(bound(t, path, unix.SOCK_STREAM), 0))
			fillQueue(t, path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := newAddr(t)
			setUp(t, addr.Target)
			_, err := Listen(testkit.Context(t), addr)
			assert.ErrorIs(t, err, ErrInUse)
			requireSocket(t, addr.Target)
		})
	}
}

func TestListen_OtherFilesStay(t *testing.T) {
	dir := testkit.ShortDir(t)
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
			_, err = Listen(testkit.Context(t), pathAddr(path))
			assert.ErrorIs(t, err, ErrNotSocket)
			assert.ErrorContains(t, err, name)
			after, err := os.Lstat(path)
			require.NoError(t, err)
			assert.True(t, os.SameFile(before, after))
			require.NoError(t, os.Remove(path))
		})
	}
}

func TestListen_SocketThatMayNotBeTriedStays(t *testing.T) {
	addr := newAddr(t)
	require.NoError(t, os.Chmod(filepath.Dir(addr.Target), 0o777))
	testkit.StaleSocket(t, addr.Target)
	require.NoError(t, os.Chmod(addr.Target, 0))
	testkit.AsNobody(t, func() {
		_, err := Listen(testkit.Context(t), addr)
		assert.ErrorIs(t, err, ErrInUse)
		assert.ErrorIs(t, err, syscall.EACCES)
	})
	requireSocket(t, addr.Target)
}

func TestListen_DirectoryThatCannotBeRead(t *testing.T) {
	addr := newAddr(t)
	dir := filepath.Dir(addr.Target)
	require.NoError(t, os.Chmod(dir, 0o333))
	testkit.AsNobody(t, func() {
		_, err := os.ReadDir(dir)
		assert.ErrorIs(t, err, os.ErrPermission)
		l, err := Listen(testkit.Context(t), addr)
		if assert.NoError(t, err) {
			assert.NoError(t, l.Close())
		}
		assert.NoFileExists(t, addr.Target)
	})
}

func TestListen_WaitsForTheLockUntilItsContextEnds(t *testing.T) {
	addr := newAddr(t)
	dir := filepath.Dir(addr.Target)
	unlock, err := unixsock.LockDir(testkit.Context(t), dir)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(testkit.Context(t), 20*time.Millisecond)
	defer cancel()
	_, err = Listen(ctx, addr)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, dir)
	assert.NoFileExists(t, addr.Target)

	listened := testkit.Background(t, func() error {
		l, err := Listen(testkit.Context(t), addr)
		if err == nil {
			err = l.Close()
		}
		return err
	})
	unlock()
	assert.NoError(t, listened())
}

func TestListen_OneOfManyGoroutinesTakesOver(t *testing.T) {
	addr := newAddr(t)
	for range 20 {
		testkit.StaleSocket(t, addr.Target)
		start := make(chan struct{})
		var mu sync.Mutex
		var winners []net.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				<-start
				l, err := Listen(testkit.Context(t), addr)
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

func TestListener_CloseRemovesItsOwnFileOnly(t *testing.T) {
	addr := newAddr(t)
	l := mustListen(t, addr)
	require.NoError(t, l.Close())
	assert.NoFileExists(t, addr.Target)
	assert.ErrorIs(t, l.Close(), net.ErrClosed)
	_, err := l.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)

	old := mustListen(t, addr)
	require.NoError(t, os.Remove(addr.Target)) // as a cleaner may do
	successor := mustListen(t, addr)
	require.NoError(t, old.Close())
	requireAnswers(t, successor, addr)
	assert.ErrorIs(t, old.Close(), net.ErrClosed)
	requireAnswers(t, successor, addr)

	require.NoError(t, os.Remove(addr.Target))
	assert.NoError(t, successor.Close(), "a missing file is no error")
}

func TestListener_CloseDoesNotWaitForALock(t *testing.T) {
	addr := newAddr(t)
	l := mustListen(t, addr)
	unlock, err := unixsock.LockDir(testkit.Context(t), filepath.Dir(addr.Target))
	require.NoError(t, err)
	defer unlock()
	require.NoError(t, l.Close())
	assert.NoFileExists(t, addr.Target)
}

func TestListener_HasADeadline(t *testing.T) {
	l := mustListen(t, newAddr(t))
	require.NoError(t, l.SetDeadline(time.Now().Add(-time.Second)))
	_, err := l.Accept()
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestAbstractName_RoundTrip(t *testing.T) {
	testkit.NeedLinux(t)
	addr := pathAddr(fmt.Sprintf("@spawnwire-test-%d", os.Getpid()))
	l := mustListen(t, addr)
	requireAnswers(t, l, addr)
	_, err := Listen(testkit.Context(t), addr)
	assert.ErrorIs(t, err, ErrInUse)
	assert.ErrorIs(t, err, syscall.EADDRINUSE)
	require.NoError(t, l.Close())
	_, err = Dial(testkit.Context(t), addr)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestAbstractName_Long(t *testing.T) {
	testkit.NeedLinux(t)
	prefix := fmt.Sprintf("@spawnwire-test-%d-", os.Getpid())
	longest := pathAddr(prefix + strings.Repeat("x", 108-len(prefix)))
	requireAnswers(t, mustListen(t, longest), longest)
	requireTooLong(t, pathAddr(longest.Target+"x"),
		PathError{Path: longest.Target + "x", Len: 108, Limit: 107})
}
