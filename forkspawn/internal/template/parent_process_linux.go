//go:build amd64 || arm64

package template

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/reaper"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// process is a template, as its parent sees it.
type process struct {
	f           *Forkserver
	ready       chan struct{} // closed when the template waits for requests, or err is set
	err         error
	credentials credentials // of the parent when it started the template, and so the children's

	// Set when the process runs, which is before ready is closed.
	id      string
	proc    *osproc.Process
	streams capture.Streams
	conn    *net.UnixConn

	killOnce sync.Once
	killed   chan struct{} // closed by kill
	ended    chan struct{} // closed when the process has ended, after status is set
	status   osproc.Status
}

func newProcess(f *Forkserver) *process {
	return &process{
		f: f, ready: make(chan struct{}), killed: make(chan struct{}), ended: make(chan struct{}),
		credentials: currentCredentials(),
	}
}

// Bounds of the parent's waits for a template.
const (
	forkTimeout  = 20 * time.Second       // for a child; a fork ends with an error after 9 seconds
	pollInterval = 250 * time.Millisecond // between looks whether the template is stopped
	dyingTimeout = time.Second            // for the end of a template that has closed its socket
	killTimeout  = 10 * time.Second       // for the end of one that was killed
)

// The failures of a template without a reason from itself.
var (
	errEnded   = errors.New("it has ended")
	errStopped = errors.New("it is stopped (SIGSTOP)")
	errStuck   = errors.New("it does not answer")
)

// useless reports whether another template must be started.
func (t *process) useless() bool {
	return wait.Closed(t.ready) && (t.err != nil || t.failure() != "")
}

// failure returns why a template that was ready can no longer fork, or must
// not; "" when it can.
func (t *process) failure() string {
	switch {
	case t.err != nil:
		return "" // it was never ready, and the callers of Ready and Fork have the error
	case wait.Closed(t.ended):
		return fmt.Sprintf("template (pid %d): %v: %v", t.proc.PID(), errEnded, t.status)
	case wait.Closed(t.killed) || !t.proc.Runs():
		return fmt.Sprintf("template (pid %d): it has ended, or is stopped", t.proc.PID())
	}
	now := currentCredentials()
	if changed := t.credentials.differ(&now); changed != "" {
		return fmt.Sprintf("template (pid %d): this process's %s changed since it was started",
			t.proc.PID(), changed)
	}
	return ""
}

// kill ends the process, at once or as soon as it runs. It does not wait.
func (t *process) kill() { t.killOnce.Do(func() { close(t.killed) }) }

// run starts the process and waits until it is ready.
func (t *process) run() {
	defer close(t.ready)
	if t.err = t.start(); t.err != nil {
		return
	}
	timeout := t.f.cfg.WarmUpTimeout
	deadline := time.Now().Add(timeout)
	r, _, err := t.receive(deadline)
	for err == nil && r.kind == replyRehearse {
		if err = t.rehearse(deadline); err == nil {
			r, _, err = t.receive(deadline)
		}
	}
	switch {
	case errors.Is(err, errStuck):
		err = fmt.Errorf("it has not warmed up within %v (Config.WarmUpTimeout)", timeout)
	case err != nil:
	case r.kind == replyReady:
		if r.reason != "" {
			t.f.cfg.Logger.Warn("forkspawn: forked children cannot use what the warm-up has left open",
				"files", r.reason)
		}
		return
	case r.kind == replyRefused:
		t.end(nil)
		t.err = &Refusal{r.reason, r.remedy}
		return
	case r.kind == replyFailed:
		err = r.err()
	default:
		err = errMessage
	}
	t.err = t.end(err)
}

// start starts the process on the Spawner's thread. To the kernel the
// template's children are that thread's, so they get their parent-death signal
// when the thread ends.
func (t *process) start() error {
	cfg := &t.f.cfg
	near, far, err := unixsock.Pair()
	if err != nil {
		return osproc.ExplainScarcity(err)
	}
	defer far.Close()
	stdin, err := far.(*net.UnixConn).File()
	if err != nil {
		near.Close()
		return osproc.ExplainScarcity(err)
	}
	defer stdin.Close()
	t.id = handshake.NewID()
	cmd := cfg.Command
	if cfg.Reaper != nil {
		cmd.Env = cfg.Reaper.Mark(t.id, cmd.Env)
	}
	cmd.Env = append(osproc.Without(osproc.Without(cmd.Env, handshake.TicketEnv), Env), t.mark())
	attr := osproc.Attr{Command: cmd, Stdin: stdin, OwnGroup: true,
		ParentDeathSignal: syscall.SIGKILL}
	var streams capture.Streams
	files, err := streams.Open(cfg.Stdout, cfg.Stderr)
	if err != nil {
		near.Close()
		return osproc.ExplainScarcity(err)
	}
	t.streams, attr.Stdout, attr.Stderr = streams, files[0], files[1]
	t.proc, err = cfg.Start(&attr)
	t.streams.Started()
	if err != nil {
		near.Close()
		t.streams.End()
		return err
	}
	t.conn = near.(*net.UnixConn)
	cfg.Reaps.Go(t.reap)
	cfg.Reaps.Go(func() {
		select {
		case <-t.killed:
			t.proc.SignalGroup(syscall.SIGKILL)
			// ends the template too, when this process has dropped the privilege to kill it
			t.conn.CloseWrite()
		case <-t.ended:
		}
	})
	return nil
}

// reap waits for the end of the process.
func (t *process) reap() {
	t.status = t.proc.Wait()
	t.f.Reaped(t.proc)
	t.streams.Settle()
	t.f.cfg.Reaper.Ended(t.proc.PID(), t.id)
	close(t.ended)
	// reads get EOF after the last reply, even if a child still has the other end
	t.conn.CloseRead()
	t.streams.End()
	<-t.ready
	t.f.turn <- struct{}{} // nobody reads any more
	t.conn.Close()
	<-t.f.turn
}

// end ends the process and returns the error for it.
func (t *process) end(cause error) error {
	died := errors.Is(cause, errEnded) && wait.For(t.f.cfg.Context, t.ended, dyingTimeout)
	if !died {
		t.kill() // a template that has sent its reason is about to exit
	}
	e := &Error{PID: t.proc.PID(), Err: cause}
	if !wait.For(context.Background(), t.ended, killTimeout) {
		e.Err = fmt.Errorf("%w; %w", cause, osproc.ErrUnkillable)
	} else if died {
		e.Status = t.status
	}
	if t.streams.Stderr != nil {
		e.Stderr = t.streams.Stderr.LastBytes()
	}
	return e
}

// fork has the template fork a child. The caller has the turn. After an
// [*Error] nothing of the child is left, and unless the template has sent the
// reason, it has ended.
func (t *process) fork(message []byte, give *handover, ownGroup bool) (*osproc.Process, error) {
	deadline := time.Now().Add(forkTimeout)
	var r reply
	pidfd := -1
	err := t.send(message, give.fds, deadline)
	unserved := give.sent()
	if err == nil {
		r, pidfd, err = t.receive(deadline)
	}
	switch {
	case err != nil:
	case r.kind == replyForked && r.pid > 0:
		if ownGroup {
			// the child does so too, and the first of the two has the effect
			syscall.Setpgid(r.pid, r.pid)
		}
		p := osproc.Adopt(r.pid, pidfd, ownGroup)
		if unserved != nil {
			p.SignalGroup(syscall.SIGKILL)
			p.Wait()
			return nil, unserved
		}
		t.f.Started(p)
		return p, nil
	case r.kind == replyNotForked: // the template goes on
		return nil, &Error{PID: t.proc.PID(), Err: r.err()}
	default:
		err = errMessage
	}
	err = t.end(err)
	t.endUnreported()
	return nil, err
}

// endUnreported ends a child that the template had forked when it died, and had
// not reported yet. Such a child has the template's environment as far as the
// kernel knows, and possibly still the template's process group. It is looked
// for on the Spawner's thread, so no other process is being started meanwhile.
func (t *process) endUnreported() {
	t.f.cfg.OnThread(func() {
		pids, _ := reaper.Children() // an error means a kernel without CONFIG_PROC_CHILDREN
		for _, pid := range pids {
			t.f.mu.Lock()
			_, known := t.f.own[pid]
			t.f.mu.Unlock()
			if known {
				continue
			}
			group, _, _ := reaper.Kinship(pid)
			environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if group == t.proc.PID() || bytes.Contains(environ, []byte(t.mark())) {
				// a child of this process that was not reaped: the number is its own
				syscall.Kill(pid, syscall.SIGKILL)
				osproc.Waitid(unix.P_PID, pid, new(unix.Siginfo), unix.WEXITED)
			}
		}
	})
}

// mark returns an entry of the template's environment, which its children have
// too.
func (t *process) mark() string { return Env + "=" + t.id + " " + t.f.cfg.WarmUp }

func (t *process) send(message []byte, fds []int, deadline time.Time) error {
	t.conn.SetWriteDeadline(deadline)
	n, _, err := t.conn.WriteMsgUnix(message, unix.UnixRights(fds...), nil)
	for rest := message[n:]; err == nil && len(rest) > 0; rest = rest[n:] {
		n, err = t.conn.Write(rest)
	}
	return explainConn(err)
}

// receive waits for a reply and its pidfd, which is -1 when there is none. It
// returns an error at the deadline, or when the template is seen to be stopped.
func (t *process) receive(deadline time.Time) (r reply, pidfd int, err error) {
	pidfd = -1
	defer func() {
		if err != nil && pidfd >= 0 {
			unix.Close(pidfd)
			pidfd = -1
		}
	}()
	oob := make([]byte, unix.CmsgSpace(4))
	first := func(b []byte) (int, error) {
		n, oobn, _, _, err := t.conn.ReadMsgUnix(b, oob)
		if fds := unixsock.Rights(oob[:oobn]); len(fds) == 1 {
			pidfd = fds[0]
		}
		return n, err
	}
	b := make([]byte, 256)
	n, err := t.read(b, 4, deadline, first)
	if err != nil {
		return r, pidfd, err
	}
	size := 4 + int(binary.LittleEndian.Uint32(b))
	switch {
	case size > maxMessage || n > size:
		return r, pidfd, errMessage
	case n < size:
		b = append(b[:n], make([]byte, size-n)...)
		if _, err = t.read(b[n:], size-n, deadline, t.conn.Read); err != nil {
			return r, pidfd, err
		}
	}
	r, err = decodeReply(b[4:size])
	return r, pidfd, err
}

// read reads at least the given number of bytes, until the deadline. It returns
// errStopped when two looks in a row find the template stopped.
func (t *process) read(
	b []byte, least int, deadline time.Time, read func([]byte) (int, error),
) (n int, err error) {
	stopped := false
	for n < least {
		t.conn.SetReadDeadline(time.Now().Add(pollInterval))
		more, err := read(b[n:])
		n += max(more, 0)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && t.mayWait(deadline):
			before := stopped
			if stopped = !t.proc.Runs(); stopped && before && !wait.Closed(t.ended) {
				return n, errStopped
			}
		case err != nil:
			return n, explainConn(err)
		case more == 0:
			return n, errEnded
		}
	}
	return n, nil
}

// mayWait reports whether the deadline has not passed, or a debugger suspends
// it.
func (t *process) mayWait(deadline time.Time) bool {
	return time.Now().Before(deadline) || t.f.cfg.WaitForDebugger && osproc.Traced(t.proc.PID())
}

// explainConn replaces the errors of the socket by the template's state that
// they stand for.
func explainConn(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, net.ErrClosed):
		return errEnded
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errStuck
	}
	return err
}
