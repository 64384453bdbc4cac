//go:build unix

package forkspawn_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestStdio_IsAllThatChildrenKeep(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // no close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	s := newSpawner(t, forkspawn.Config{Stdout: forkspawn.Capture(nil)})
	c := spawn(t, s, spawnspec.Spec{Entry: "reports-descriptors", Args: true})
	for _, who := range []string{"child", "grandchild"} {
		var report map[string]string
		require.NoError(t, c.Recv(testkit.Context(t), &report))
		for fd, target := range report {
			n, err := strconv.Atoi(fd)
			require.NoError(t, err)
			if n > 2 {
				assert.NotContains(t, target, "hostname", who)
				// The child has opened all others itself: its sockets, the runtime's
				// poller, and the cgroup files of the Go runtime.
				assert.Regexp(t,
					`^(socket:|anon_inode:|pipe:|/proc/|/sys/fs/cgroup|/run/|/tmp/)`, target, who)
			}
		}
	}
	flags, err := unix.FcntlInt(uintptr(leak), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.Zero(t, flags&unix.FD_CLOEXEC, "the parent's flags have not changed")
}

func TestStdio_FullPipesNeverBlockAChild(t *testing.T) {
	var out, errs lockedBuffer
	s, err := forkspawn.New(
		forkspawn.Config{Stdout: forkspawn.Capture(&out), Stderr: forkspawn.Capture(&errs)})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Entry: "floods-output"})
	var done string
	require.NoError(t, c.Recv(testkit.Context(t), &done))
	_, err = c.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.True(t, strings.HasSuffix(c.StderrTail(), "x\nthe last line\n"))
	assert.Len(t, c.StderrTail(), 4<<10)
	assert.Len(t, c.StdoutTail(), 4<<10)
	requireLost(t, s.Close(), out.dropped(t)+errs.dropped(t))
	assert.Equal(t, out.dropped(t)+errs.dropped(t), c.LostOutput())
	assert.Equal(t, roles.Flooded, out.len()+int(out.dropped(t)),
		"each byte was passed on or is counted as dropped")
}

// requireLost checks the error of Close for a number of lost bytes.
func requireLost(t *testing.T, err error, bytes int64) {
	t.Helper()
	if bytes == 0 {
		require.NoError(t, err)
		return
	}
	var lost *forkspawn.LostOutputError
	require.ErrorAs(t, err, &lost)
	require.Equal(t, bytes, lost.Bytes)
}

// slowWriter blocks until it is opened.
type slowWriter struct {
	opened chan struct{}
	lockedBuffer
}

func (w *slowWriter) Write(p []byte) (int, error) {
	<-w.opened
	return w.lockedBuffer.Write(p)
}

func TestStdio_CaptureAllLosesNothing(t *testing.T) {
	out := &slowWriter{opened: make(chan struct{})}
	errs := &slowWriter{opened: out.opened}
	s := newSpawner(t,
		forkspawn.Config{Stdout: forkspawn.CaptureAll(out), Stderr: forkspawn.CaptureAll(errs)})
	c := spawn(t, s, spawnspec.Spec{Entry: "floods-output"})
	early, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var done string
	require.ErrorIs(t, c.Recv(early, &done), context.DeadlineExceeded,
		"the child waits for its writers")
	close(out.opened)
	require.NoError(t, c.Recv(testkit.Context(t), &done))
	_, err := c.Wait(testkit.Context(t))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	assert.Zero(t, c.LostOutput())
	assert.Equal(t, roles.Flooded, out.len())
	assert.Equal(t, roles.Flooded, errs.len())
}

// Close stops a child that is blocked on its output.
func TestStdio_CaptureAllDoesNotHoldUpClose(t *testing.T) {
	t.Parallel() // Close waits ten seconds
	w := &slowWriter{opened: make(chan struct{})}
	defer close(w.opened)
	s, err := forkspawn.New(forkspawn.Config{
		Stdout: forkspawn.CaptureAll(w), Stderr: forkspawn.Null(),
		StopGrace: 100 * time.Millisecond, TermGrace: 100 * time.Millisecond})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Entry: "floods-output"})
	testkit.Eventually(t, "the child writes", func() bool { return c.StdoutTail() != "" })
	var lost *forkspawn.LostOutputError
	require.ErrorAs(t, s.Close(), &lost)
	assert.Equal(t, c.LostOutput(), lost.Bytes)
	assert.NotZero(t, lost.Bytes)
}

func TestStdio_BlockedWriterDoesNotBlockTheChild(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe() // never read
	defer r.Close()
	s, err := forkspawn.New(
		forkspawn.Config{Stdout: forkspawn.Capture(w), Stderr: forkspawn.Capture(w)})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Entry: "floods-output"})
	var done string
	require.NoError(t, c.Recv(testkit.Context(t), &done))
	_, err = c.Stop(testkit.Context(t))
	require.NoError(t, err)
	requireLost(t, s.Close(), 2*roles.Flooded+int64(len("\nthe last line\n")))
}

// lockedBuffer is the captured output of children.
type lockedBuffer struct{ testkit.Output }

// len counts the x of floods-output.
func (l *lockedBuffer) len() int { return strings.Count(l.String(), "x") }

// dropped returns how many bytes the library has dropped by its own count.
func (l *lockedBuffer) dropped(t *testing.T) (n int64) {
	for line := range strings.Lines(l.String()) {
		if _, rest, ok := strings.Cut(line, "[spawnwire: "); ok {
			count, _, _ := strings.Cut(rest, " ")
			d, err := strconv.ParseInt(count, 10, 64)
			require.NoError(t, err)
			n += d
		}
	}
	return n
}

// When nobody reads stderr any more, the lines of children are lost. A write to
// it through os.Stderr would end this process with SIGPIPE.
func TestStdio_ParentOutlivesTheReaderOfItsStderr(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	role := roles.Command("outlives-stderr")
	cmd := exec.Command(role.Path, role.Args...)
	cmd.Env, cmd.Stderr = role.Env, w
	out, err := cmd.Output()
	require.NoError(t, err)
	assert.Equal(t, "alive\n", string(out))
}

// A program that exits after a failed Spawn has passed on all output of the child.
func TestStdio_LastWordsArriveBeforeTheError(t *testing.T) {
	runs := 20
	if testkit.IsLong() {
		runs = 200
	}
	for range runs {
		role := roles.Command("exits-with-its-child")
		cmd := exec.Command(role.Path, role.Args...)
		dir := testkit.ShortDir(t) // for the socket, which the role leaves
		cmd.Env = append(role.Env, "TMPDIR="+dir, "XDG_RUNTIME_DIR="+dir)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, _ := cmd.Output()
		require.Contains(t, string(out), "word 300")
		require.Equal(t, 300, strings.Count(errs.String(), "word "), errs.String())
	}
}

func TestStdio_LinesHaveTheChildsName(t *testing.T) {
	for _, spares := range []int{0, 1} {
		lines := make(chan string, 100)
		s := newSpawner(t, forkspawn.Config{Spares: spares,
			Stderr: forkspawn.Lines(func(e forkspawn.ChildEvent, line []byte) {
				lines <- fmt.Sprintf("%s %d: %s", e.Name, e.PID, line)
			})})
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		c := spawn(t, s, spawnspec.Spec{Name: "talker", Entry: "logs"})
		want := fmt.Sprintf("talker %d: ", c.PID())
		var logged string
		require.NoError(t, c.Recv(testkit.Context(t), &logged))
		for range 3 {
			require.Regexp(t, "^"+want+".* of the child$", <-lines)
		}
		require.Regexp(t, "^"+want+".*package log of the child$", <-lines)
		assert.Contains(t, c.StderrTail(), "package log of the child\n")
	}
}

// A spare can write as soon as it has its spec, before Spawn returns.
func TestStdio_FirstLineHasTheChildsName(t *testing.T) {
	for _, spares := range []int{0, 1} {
		names := make(chan string, 1)
		s := newSpawner(t, forkspawn.Config{Spares: spares,
			Stderr: forkspawn.Lines(func(e forkspawn.ChildEvent, line []byte) {
				if strings.HasSuffix(string(line), "it prepares itself") {
					names <- e.Name
				}
			})})
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		spawn(t, s, spawnspec.Spec{Name: "talker", Entry: "logs-first"})
		assert.Equal(t, "talker", <-names)
	}
}

// Each child of one Spawner can have streams of its own.
func TestStdio_StreamsOfOneChild(t *testing.T) {
	var out, common testkit.Output
	s := newSpawner(t, forkspawn.Config{Spares: 1, Stdout: forkspawn.Capture(&common)})
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "prints"},
		forkspawn.WithStdout(forkspawn.CaptureAll(&out)))
	require.NoError(t, err)
	other := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	_, err = other.Stop(testkit.Context(t))
	require.NoError(t, err)
	require.NoError(t, c.Send(testkit.Context(t), "go on"))
	_, err = c.Wait(testkit.Context(t))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	assert.Equal(t, roles.Printed, strings.Count(out.String(), "z"))
	assert.Empty(t, common.String())
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{}, spawnspec.Spec{Name: "x"})
	assert.ErrorIs(t, boot, forkspawn.ErrSpawnerClosed)
}

func TestStdio_LogLines(t *testing.T) {
	var log testkit.Output
	s := newSpawner(t, forkspawn.Config{Stderr: forkspawn.LogLines(
		slog.New(slog.NewTextHandler(&log, nil)), slog.LevelInfo)})
	c := spawn(t, s, spawnspec.Spec{Name: "talker", Entry: "logs"})
	var logged string
	require.NoError(t, c.Recv(testkit.Context(t), &logged))
	_, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	assert.Regexp(t, `level=INFO msg=".*package log of the child" name=talker id=\S+ pid=`+
		itoa(c.PID()), log.String())
}
