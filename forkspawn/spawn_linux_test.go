package forkspawn_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The kernel sends the parent-death signal when the thread that started the
// child ends. So a thread of the library starts it, and not the caller's.
func TestSpawn_ChildOutlivesTheCallersThread(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	spawned := make(chan *forkspawn.Child)
	ended := make(chan int, 1)
	go onAThreadOfItsOwn(func() {
		ended <- syscall.Gettid()
		c, err := s.Spawn(context.Background(), spawnspec.Spec{Entry: "echo"})
		assert.NoError(t, err)
		spawned <- c
	})
	c := <-spawned
	require.NotNil(t, c)
	tid := <-ended
	testkit.Eventually(t, "the thread has ended", func() bool {
		_, err := os.Stat("/proc/self/task/" + itoa(tid))
		return err != nil
	})
	require.NoError(t, c.Send(testkit.Context(t), "are you there"))
	var got string
	require.NoError(t, c.Recv(testkit.Context(t), &got))
}

// onAThreadOfItsOwn calls f on a thread that ends with the caller's goroutine.
func onAThreadOfItsOwn(f func()) {
	runtime.LockOSThread() // not unlocked, so that the thread ends
	if syscall.Gettid() != os.Getpid() {
		f()
		return
	}
	// The first thread of a process never ends, so another one must call f.
	done := make(chan struct{})
	go func() {
		defer close(done)
		onAThreadOfItsOwn(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

// Other programs start the child. The library recognises it by its ancestors.
func TestSpawn_ChildBehindAWrapper(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{BootTimeout: bound, StopGrace: 100 * time.Millisecond})
	exe, err := os.Executable()
	require.NoError(t, err)
	for name, cmd := range map[string]forkspawn.Command{
		"env and nice, which become it": {Path: "env", Args: []string{"nice", exe}},
		"a shell that waits": {Path: "sh",
			Args: []string{"-c", `"$0"; exit $?`, exe}},
		"a program that gives it a new session": {Path: "setsid",
			Args: []string{"--fork", "--wait", exe}},
		"one that is orphaned in the group": {Path: "sh",
			Args: []string{"-c", `exec 3<&0; (cd / && "$0" &); sleep 60`, exe}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "x", Entry: "echo"},
				forkspawn.WithCommand(cmd))
			require.NoError(t, err)
			var got string
			require.NoError(t, c.Send(testkit.Context(t), "hello"))
			require.NoError(t, c.Recv(testkit.Context(t), &got))
			var exit *forkspawn.ExitError
			if _, err := c.Stop(testkit.Context(t)); err != nil {
				require.True(t, errors.As(err, &exit), "%v", err)
			}
		})
	}
}

func TestStdio_ChildrenGetBlockingStreams(t *testing.T) {
	testkit.NeedLinux(t)
	var pair [2]int
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	named, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer named.Close()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	pair, err = unix.Socketpair(unix.AF_UNIX,
		unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	socket := os.NewFile(uintptr(pair[0]), "socket")
	defer socket.Close()
	defer unix.Close(pair[1])
	for name, f := range map[string]*os.File{"fifo": named, "pipe": w, "socket": socket} {
		errs, child, err := os.Pipe()
		require.NoError(t, err)
		p, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
			Command: forkspawn.Command{Path: "sh",
				Args: []string{"-c", "grep flags /proc/$$/fdinfo/1 >&2"}},
			Stdout: f, Stderr: child,
		})
		require.NoError(t, err)
		child.Close()
		line, err := io.ReadAll(errs)
		require.NoError(t, err)
		errs.Close()
		require.True(t, p.Wait().Success())
		flags, err := strconv.ParseUint(
			strings.TrimSpace(strings.TrimPrefix(string(line), "flags:")), 8, 32)
		require.NoError(t, err)
		assert.Zero(t, flags&unix.O_NONBLOCK, name)
		var own int
		conn, err := f.SyscallConn() // Fd would change the mode
		require.NoError(t, err)
		conn.Control(func(fd uintptr) { own, err = unix.FcntlInt(fd, unix.F_GETFL, 0) })
		require.NoError(t, err)
		if name != "socket" {
			assert.NotZero(t, own&unix.O_NONBLOCK,
				"%s: this process's own file keeps its mode", name)
		}
	}
}
