package uds

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestAbstractName(t *testing.T) {
	addr := pathAddr(fmt.Sprintf("@spawnwire-test-%d", os.Getpid()))
	l := mustListen(t, addr)
	requireAnswers(t, l, addr)
	_, err := Listen(testContext(t), addr)
	assert.ErrorIs(t, err, ErrInUse)
	assert.ErrorIs(t, err, syscall.EADDRINUSE)
	require.NoError(t, l.Close())
	_, err = Dial(testContext(t), addr)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestAbstractNameOverTheLimit(t *testing.T) {
	prefix := fmt.Sprintf("@spawnwire-test-%d-", os.Getpid())
	longest := pathAddr(prefix + strings.Repeat("x", 108-len(prefix)))
	requireAnswers(t, mustListen(t, longest), longest)

	long := pathAddr(longest.Target + "x")
	for name, err := range map[string]error{
		"dial":   second(Dial(testContext(t), long)),
		"listen": second(Listen(testContext(t), long)),
	} {
		var pathErr *PathError
		if assert.ErrorAs(t, err, &pathErr, name) {
			assert.Equal(t, PathError{Path: long.Target, Len: 108, Limit: 107}, *pathErr, name)
		}
	}
}

func TestDialWaitsWhileTheQueueIsFull(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(fd, 0))
	fillQueue(t, path)

	ctx, cancel := context.WithTimeout(testContext(t), 3*time.Second) // enough to try once
	defer cancel()
	_, err = Dial(ctx, pathAddr(path))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	if !assert.ErrorIs(t, err, syscall.EAGAIN) {
		return
	}

	dialed := make(chan error, 1)
	go func() {
		conn, err := Dial(testContext(t), pathAddr(path))
		if err == nil {
			err = conn.Close()
		}
		dialed <- err
	}()
	conn, _, err := unix.Accept(fd)
	require.NoError(t, err)
	defer unix.Close(conn)
	assert.NoError(t, <-dialed)
}

// asNobody runs f as user 65534, so that permissions count for root, too. It is one thread's
// identity for file access only (setfsuid(2)), and the thread ends with it.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and no unlock
		unix.Setfsuid(65534)
		f()
	}()
	<-done
}

func TestSocketThatMayNotBeTriedStays(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o777))
	makeStale(t, path)
	require.NoError(t, os.Chmod(path, 0))
	asNobody(t, func() {
		_, err := Listen(testContext(t), pathAddr(path))
		assert.ErrorIs(t, err, ErrInUse)
		assert.ErrorIs(t, err, syscall.EACCES)
	})
	requireSocketFile(t, path)
}

func TestListenInADirectoryThatCannotBeRead(t *testing.T) {
	dir := shortDir(t)
	require.NoError(t, os.Chmod(dir, 0o333))
	addr := pathAddr(filepath.Join(dir, "s"))
	asNobody(t, func() {
		_, err := os.ReadDir(dir)
		assert.ErrorIs(t, err, os.ErrPermission)
		l, err := Listen(testContext(t), addr)
		if assert.NoError(t, err) {
			assert.NoError(t, l.Close())
		}
		assert.NoFileExists(t, addr.Target)
	})
}

func TestTemporaryDirectoryThatIsReadOnly(t *testing.T) {
	readOnly := shortDir(t)
	require.NoError(t, os.Chmod(readOnly, 0o555))
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", readOnly)
	asNobody(t, func() {
		d, err := NewDir()
		if assert.NoError(t, err) {
			assert.Equal(t, "/tmp", filepath.Dir(d.Path()))
			assert.NoError(t, d.Remove())
		}
		_, err = newDirIn([]place{{name: "only", dir: readOnly}})
		assert.ErrorIs(t, err, os.ErrPermission)
	})
}

// A place can let a directory be made and then refuse the file in it: a full disk, say.
func TestNewDirThatFailsHalfwayLeavesNothing(t *testing.T) {
	dir := shortDir(t)
	old := syscall.Umask(0o700)
	defer syscall.Umask(old)
	require.NoError(t, os.Chmod(dir, 0o777))
	asNobody(t, func() {
		_, err := newDirIn([]place{{name: "only", dir: dir}})
		assert.ErrorIs(t, err, os.ErrPermission)
	})
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestPeerCredOfAnotherGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a child in another group")
	}
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	l := mustListen(t, addr)
	c := startChildAs(t, &syscall.Credential{Uid: 0, Gid: 12345}, "cred", []string{"UDS_TEST_PATH=" + addr.Target})
	cred, _ := acceptCred(t, l)
	assert.Equal(t, Cred{PID: c.cmd.Process.Pid, UID: 0, GID: 12345}, cred)
}
