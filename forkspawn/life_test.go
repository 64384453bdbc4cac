//go:build unix

package forkspawn_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestStopUsesNoMoreForceThanItTakes(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		const short = 300 * time.Millisecond
		for _, c := range []struct {
			spec       spawnspec.Spec
			stop, term time.Duration // short where the child lets it pass
			by         forkspawn.Ending
			status     forkspawn.ExitStatus
		}{
			{spawnspec.Spec{Entry: "sleep"}, bound, bound, forkspawn.EndedAsked, forkspawn.Exited(0)},
			{spawnspec.Spec{Entry: "busy"}, bound, bound, forkspawn.EndedAsked, forkspawn.Exited(0)},
			{spawnspec.Spec{Entry: "deaf", Args: false}, short, bound, forkspawn.EndedTerminated, forkspawn.Killed(syscall.SIGTERM, false)},
			{spawnspec.Spec{Entry: "deaf", Args: true}, short, short, forkspawn.EndedKilled, forkspawn.Killed(syscall.SIGKILL, false)},
		} {
			s := newSpawner(t, forkspawn.Config{Listen: listen, StopGrace: c.stop, TermGrace: c.term})
			child := spawn(t, s, c.spec)
			if c.spec.Entry != "sleep" {
				var ready string
				require.NoError(t, child.Recv(testContext(t), &ready))
			}
			result, err := child.Stop(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, c.by, result.By, c.spec)
			assert.Equal(t, c.status, result.Status, c.spec)
			assert.False(t, alive(child.PID()))
		}
	})
}

func TestStopKillsWhenItsContextEnds(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: time.Hour})
	c := spawn(t, s, spawnspec.Spec{Entry: "deaf"})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	result, err := c.Stop(ctx)
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedKilled, result.By)

	c = spawn(t, s, spawnspec.Spec{Entry: "deaf"})
	go c.Stop(context.Background())
	result, err = c.Kill()
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Killed(syscall.SIGKILL, false), result.Status)
}

// The child computes and does not receive, megabytes are queued in front of the cancel, and a Send of
// the parent is blocked: it learns all the same, with no force used. The log shows how fast.
func TestKillThatIsNotWaitedFor(t *testing.T) {
	// It says so, and touches nothing that belongs to the end, which comes at the same time.
	defer forkspawn.SetKillBound(1)()
	s, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Null()})
	require.NoError(t, err)
	for range 10 {
		c := spawn(t, s, spawnspec.Spec{Entry: "sleep"})
		if _, err := c.Kill(); err != nil {
			assert.ErrorContains(t, err, "after SIGKILL")
		}
		<-c.Exited()
	}
	require.NoError(t, s.Close())
}

func TestBusyChildLearnsThatItShouldStop(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen, StopGrace: bound})
		best := time.Hour
		for range 5 {
			c := spawn(t, s, spawnspec.Spec{Entry: "busy"})
			var ready string
			require.NoError(t, c.Recv(testContext(t), &ready))
			blocked := make(chan error, 1)
			go func() {
				for {
					if err := c.SendBytes(context.Background(), make([]byte, 1<<20)); err != nil {
						blocked <- err
						return
					}
				}
			}()
			result, err := c.Stop(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.EndedAsked, result.By)
			assert.Equal(t, forkspawn.Exited(0), result.Status, c.StderrTail())
			best = min(best, result.Elapsed)
			var exit *forkspawn.ExitError
			assert.ErrorAs(t, <-blocked, &exit)
		}
		t.Logf("a busy child learnt, and had ended, after %v", best)
	})
}

func TestReceiveFromADeadChildTellsItsStatus(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		for entry, status := range map[string]forkspawn.ExitStatus{
			"exit": forkspawn.Exited(5), "fail": forkspawn.Exited(1), "panic": forkspawn.Exited(2),
		} {
			c := spawn(t, s, spawnspec.Spec{Entry: entry, Args: 5})
			var v any
			err := c.Recv(testContext(t), &v)
			var exit *forkspawn.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, status, exit.Status)
			t.Log(err)
			switch entry {
			case "fail":
				assert.Contains(t, exit.Stderr, "no luck today")
				var bye *transport.GoodbyeError
				require.ErrorAs(t, err, &bye)
				assert.Equal(t, "no luck today", bye.Reason)
			case "panic":
				assert.Contains(t, exit.Error(), "panic: at the disco")
				assert.ErrorIs(t, err, transport.ErrPeerGone)
			}
			result, err := c.Stop(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.EndedBefore, result.By)
		}
	})
}

// Death and ready at the same moment: a BootError with the status, or a child whose next receive has it.
func TestDeathAtTheMomentOfReadyHasTwoOutcomes(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		for range 50 {
			c, err := s.SpawnCommand(testContext(t), role("die-ready"), spawnspec.Spec{Name: "brief"})
			if err != nil {
				var boot *forkspawn.BootError
				require.ErrorAs(t, err, &boot)
				assert.Equal(t, forkspawn.Exited(9), boot.Status)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				continue
			}
			var v any
			err = c.Recv(testContext(t), &v)
			var exit *forkspawn.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, forkspawn.Exited(9), exit.Status)
			c.Stop(testContext(t))
		}
	})
}

func TestChildThatCutsItsChannelAndLivesIsNotCalledDead(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: 10 * time.Millisecond, TermGrace: bound})
	c, err := s.SpawnCommand(testContext(t), role("cut-ready"), spawnspec.Spec{Name: "cutter"})
	require.NoError(t, err)
	var v any
	err = c.Recv(testContext(t), &v)
	assert.ErrorIs(t, err, transport.ErrPeerGone)
	var exit *forkspawn.ExitError
	assert.False(t, errors.As(err, &exit))
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedTerminated, result.By)
}

func TestChildrenKeepOnlyStdioTwoLevelsDeep(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // no close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	s := newSpawner(t, forkspawn.Config{Stdout: forkspawn.Capture(nil)})
	c := spawn(t, s, spawnspec.Spec{Entry: "fds", Args: true})
	for _, who := range []string{"child", "grandchild"} {
		var report map[string]string
		require.NoError(t, c.Recv(testContext(t), &report))
		for fd, target := range report {
			n, err := strconv.Atoi(fd)
			require.NoError(t, err)
			if n > 2 {
				assert.NotContains(t, target, "hostname", who)
				// All else it opened itself: its sockets, the runtime's poller, the cgroup files of Go 1.25 on.
				assert.Regexp(t, `^(socket:|anon_inode:|pipe:|/proc/|/sys/fs/cgroup|/run/|/tmp/)`, target, who)
			}
		}
	}
	flags, err := unix.FcntlInt(uintptr(leak), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.Zero(t, flags&unix.FD_CLOEXEC, "the parent's own flags are as they were")
}

func TestFullPipesNeverBlockAChild(t *testing.T) {
	var out, errs lockedBuffer
	s := newSpawner(t, forkspawn.Config{Stdout: forkspawn.Capture(&out), Stderr: forkspawn.Capture(&errs)})
	c := spawn(t, s, spawnspec.Spec{Entry: "flood"})
	var done string
	require.NoError(t, c.Recv(testContext(t), &done))
	_, err := c.Wait(testContext(t))
	require.NoError(t, err)
	assert.True(t, strings.HasSuffix(c.StderrTail(), "x\nthe last line\n"))
	assert.Len(t, c.StderrTail(), 4<<10)
	assert.Len(t, c.StdoutTail(), 4<<10)
	require.NoError(t, s.Close())
	assert.Equal(t, 160<<16, out.len()+int(out.dropped(t)), "each byte was passed on or is counted as dropped")
}

func TestWriterThatBlocksDoesNotBlockTheChild(t *testing.T) {
	r, w := io.Pipe() // nobody reads it
	s := newSpawner(t, forkspawn.Config{Stdout: forkspawn.Capture(w), Stderr: forkspawn.Capture(w)})
	c := spawn(t, s, spawnspec.Spec{Entry: "flood"})
	var done string
	require.NoError(t, c.Recv(testContext(t), &done))
	_, err := c.Stop(testContext(t))
	require.NoError(t, err)
	r.Close()
}

func TestStopTakesTheWholeProcessGroup(t *testing.T) {
	// A wrapper: the shell starts this program as a joining child, and a sleep beside it.
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := sh(`sleep 60 & echo $! >"` + pidFile + `"; "$PROGRAM"; wait`)
	program := role("join")
	cmd.Env = append(program.Env, "PROGRAM="+program.Path)
	s := newSpawner(t, forkspawn.Config{StopGrace: 100 * time.Millisecond, TermGrace: 10 * time.Second})
	c, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Name: "wrapped"})
	require.NoError(t, err)
	require.NoError(t, c.Send(testContext(t), "through the wrapper"))
	var got string
	require.NoError(t, c.Recv(testContext(t), &got))
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	sleeper, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	_, err = c.Stop(testContext(t))
	require.NoError(t, err)
	eventually(t, "the sleeper is gone", func() bool { return !running(sleeper) })
}

func TestWhatAChildLeavesBehindIsKilledWithItsGroup(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	boot := spawnError(t, testContext(t), s, role("grandchild"), spawnspec.Spec{Name: "leaver"})
	_, pid, ok := strings.Cut(strings.TrimSpace(boot.Stderr), "leaving ")
	require.True(t, ok, boot.Stderr)
	sleeper, err := strconv.Atoi(pid)
	require.NoError(t, err)
	eventually(t, "the grandchild is gone", func() bool { return !running(sleeper) })
}

// running tells whether a process runs and is not a zombie that its own parent has not reaped.
func running(pid int) bool { return spawntest.Running(pid) }

// The parent-death signal and the end of the stream, each without the other.
func TestOrphansEndAfterTheirParentIsKilled(t *testing.T) {
	for name, bySignal := range map[string]bool{"by the kernel's signal": true, "by the end of the stream": false} {
		t.Run(name, func(t *testing.T) {
			if bySignal && runtime.GOOS != "linux" {
				t.Skip("there is no such signal here")
			}
			s := newSpawner(t, forkspawn.Config{})
			// The one in the middle is killed and leaves its socket's directory: here, and not in a place
			// where the next Spawner would have to remove it.
			place, err := os.MkdirTemp("", "o-") // t.TempDir is too long for a socket
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, os.RemoveAll(place)) })
			env := append(os.Environ(), "XDG_RUNTIME_DIR=", "TMPDIR="+place)
			c, err := s.SpawnCommand(testContext(t), forkspawn.Command{Env: env}, spawnspec.Spec{Entry: "tree", Args: bySignal})
			require.NoError(t, err)
			var grandchild int
			require.NoError(t, c.Recv(testContext(t), &grandchild))
			require.True(t, running(grandchild))
			start := time.Now()
			_, err = c.Kill()
			require.NoError(t, err)
			eventually(t, "the grandchild has ended", func() bool { return !running(grandchild) })
			t.Logf("it ended %v after the kill", time.Since(start))
		})
	}
}

func TestWaitIsNotFooledByAThief(t *testing.T) {
	// Somebody else in the program waits for the child: its status is unknown then, never 0.
	s := newSpawner(t, forkspawn.Config{Starter: thief{}})
	_, err := s.SpawnCommand(testContext(t), forkspawn.Command{Path: "true"}, spawnspec.Spec{Name: "stolen"})
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	assert.False(t, boot.Status.Known())
	assert.False(t, boot.Status.Success())
}

// thief starts processes and reaps them behind the library's back.
type thief struct{}

func (thief) Start(_ context.Context, attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
	p, err := forkspawn.StartProcess(attr)
	if err != nil {
		return nil, err
	}
	for {
		if _, err := syscall.Wait4(p.PID(), nil, 0, nil); err != syscall.EINTR {
			return p, nil
		}
	}
}

func TestCloseEndsChildrenSideBySide(t *testing.T) {
	const grace = time.Second
	s, err := forkspawn.New(forkspawn.Config{StopGrace: grace, TermGrace: grace, Stderr: forkspawn.Null()})
	require.NoError(t, err)
	dir := filepath.Dir(s.Addr().Target)
	for range 8 {
		c := spawn(t, s, spawnspec.Spec{Entry: "deaf", Args: true})
		var ready string
		require.NoError(t, c.Recv(testContext(t), &ready))
	}
	children := s.Children()
	start := time.Now()
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(start), 8*2*grace, "not one after the other, which is eight times as long")
	for _, c := range children {
		assert.False(t, alive(c.PID()))
	}
	assert.NoDirExists(t, dir)
	assert.NoError(t, s.Close())
}

func TestShutdownHastensACloseUnderWay(t *testing.T) {
	s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, Stderr: forkspawn.Null()})
	require.NoError(t, err)
	c := spawn(t, s, spawnspec.Spec{Entry: "deaf"})
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	eventually(t, "the Close has begun", func() bool {
		_, err := s.Spawn(context.Background(), spawnspec.Spec{Entry: "echo"})
		return errors.Is(err, forkspawn.ErrClosed)
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, s.Shutdown(ctx))
	require.NoError(t, <-closed)
	assert.False(t, alive(c.PID()))
}

func TestRaceServesAnotherRuntime(t *testing.T) {
	// A runtime that starts its processes in its own way needs the listener and the race alone.
	_, err := forkspawn.Join(context.Background())
	assert.ErrorIs(t, err, forkspawn.ErrNotSpawned)

	ln := listenUDS(t)
	x, err := ln.Expect(handshake.Expectation{ID: handshake.NewID(), Secret: handshake.NewSecret()})
	require.NoError(t, err)
	defer x.Cancel()
	gone := make(chan struct{})
	time.AfterFunc(10*time.Millisecond, func() { close(gone) })
	_, err = forkspawn.Race(testContext(t), x, gone)
	assert.ErrorIs(t, err, forkspawn.ErrDied)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = forkspawn.Race(ctx, x, make(chan struct{}))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestForkHelperWorksByItself(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
		Command: forkspawn.Command{Path: "sh", Args: []string{"-c", "echo $0 $*; exit 4", "a", "b"}},
		Stdout:  w,
	})
	w.Close()
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Equal(t, "a b\n", string(out))
	assert.Equal(t, forkspawn.Exited(4), p.Wait())
	assert.Equal(t, forkspawn.Exited(4), p.Wait())
	assert.ErrorIs(t, p.Signal(syscall.SIGTERM, false), os.ErrProcessDone)
}

// lockedBuffer collects what several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// len counts the x that flood writes.
func (l *lockedBuffer) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.b.Bytes(), []byte("x"))
}

// dropped adds up what the library says that it dropped.
func (l *lockedBuffer) dropped(t *testing.T) (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if _, rest, ok := strings.Cut(line, "[spawnwire: "); ok {
			count, _, _ := strings.Cut(rest, " ")
			d, err := strconv.ParseInt(count, 10, 64)
			require.NoError(t, err)
			n += d
		}
	}
	return n
}

func TestCancelledChildsLastMessagesCanBeReceived(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c := spawn(t, s, spawnspec.Spec{Entry: "counter"})
		var got string
		require.NoError(t, c.Recv(testContext(t), &got))
		require.NoError(t, c.Cancel(testContext(t), "that is enough"))
		var count int
		require.NoError(t, c.Recv(testContext(t), &count))
		status, err := c.Wait(testContext(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Exited(0), status)
		assert.NoError(t, c.Cancel(testContext(t), "again"), "it has ended")
		result, err := c.Stop(testContext(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.EndedBefore, result.By)
	})
}

func init() {
	// counter counts the signals of a Ctrl-C that reach it, and tells when it is asked to stop.
	forkspawn.Register("counter", func(ctx context.Context, p *forkspawn.Parent) error {
		interrupts := make(chan os.Signal, 100)
		signal.Notify(interrupts, os.Interrupt)
		if err := p.Send(ctx, "counting"); err != nil {
			return err
		}
		<-ctx.Done()
		return p.Send(context.Background(), len(interrupts))
	})
}
