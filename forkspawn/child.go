package forkspawn

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// Child is a process started by Spawn, from its ready message on. That of a program
// ([WithProgram]) has no channel, and its methods for messages return [ErrNoChannel].
//
// The caller must call [Child.Stop] or [Spawner.Close] in the end, also if the
// child has ended by itself, because a Child holds a descriptor or two. Its
// methods may be called concurrently.
type Child struct {
	s        *Spawner
	id       string
	spec     *spawnspec.Spec
	report   *reporter
	proc     Process
	streams  capture.Streams
	lines    []*lineWriter // of the streams with Lines
	expected *handshake.Expected
	// set before Spawn returns, or the child is among the spares; nil for a program
	peer  *handshake.Peer
	conns net.Conn // of Command.Connections, or nil
	// of Command.Releasable, or nil
	releasing *releasing
	uncount   func() // ends the count of this child in Spawner.reaps
	boot      BootTimes
	intro     *introduction // nil if the child was never a spare

	began      time.Time
	life       *life       // of a Group that has restarted it, or nil; Spawner.mu guards it
	supervised atomic.Bool // by Group.Go
	again      atomic.Bool // the Group is to restart it

	onBehalfOf *Parent // the parent of the process or entry that called Spawn; nil at the root

	exited chan struct{} // closed when the process has ended, after status is set
	status ExitStatus
	onExit atomic.Pointer[func()] // see callOnExit

	stop     sync.Once
	stopping atomic.Bool // Stop, or Kill, was called
	killed   atomic.Bool // kill has sent SIGKILL
	// GroupConfig.Liveness, if the group has killed the child for its silence
	unanswered atomic.Int64
	stopped    chan struct{} // closed when Stop is done, after result is set
	result     StopResult
	stopErr    error

	words sync.Once // lastWords
	said  string
	well  bool // it said goodbye with status 0
}

// ReadyValue decodes the value that the child has sent with [Parent.Ready] into v, a
// pointer. If there is none, the error matches [handshake.ErrNoReadyValue].
func (c *Child) ReadyValue(v any) error {
	if c.peer == nil {
		return c.noChannel()
	}
	return c.peer.ReadyValue(v)
}

// newChild takes over a process and begins to wait for its end.
func newChild(a *attempt, proc Process, st capture.Streams, spare bool) *Child {
	c := &Child{
		s: a.s, id: a.id, spec: &a.spec, report: a.report, proc: proc,
		streams: st, lines: a.lineWriters, expected: a.expected, conns: a.conns,
		releasing: newReleasing(a.requests), uncount: sync.OnceFunc(a.s.reaps.Done),
		exited: make(chan struct{}), stopped: make(chan struct{}), began: a.began.Time,
	}
	if spare {
		c.intro = newIntroduction()
	}
	a.s.noteProcess(c)
	a.s.reaps.Add(1)
	go c.reap()
	return c
}

// reap waits for the process's end, and then cleans up after it.
func (c *Child) reap() {
	defer c.uncount()
	c.status = c.proc.Wait()
	c.s.forks.reaped(c.proc)
	if c.isReleased() {
		close(c.exited)
		c.s.forgetProcess(c)
		return
	}
	c.streams.Settle() // so that the tails are complete when the end is reported
	unixsock.RemoveBeside(c.s.peers.Addr().Target, socketPrefix(c.id))
	c.s.reaper.Ended(c.PID(), c.id)
	c.intro.close()
	e, report := c.event(), c.report
	report.exited(e, c.status) // before exited is closed, so that a count of a Trace is up to date
	close(c.exited)
	c.s.forgetProcess(c)
	c.runOnExit()
	if !c.streams.End() {
		e.At = time.Now()
		report.writerLate(e)
	}
	c.s.lostOutput.Add(c.streams.Lost())
}

// release closes what the program reads from the child.
func (c *Child) release() {
	c.streams.Close()
	if c.conns != nil {
		c.conns.Close()
	}
	c.releasing.close()
}

// callOnExit sets the one function that is called when the process has ended.
// It replaces an earlier one.
func (c *Child) callOnExit(f func()) {
	c.onExit.Store(&f)
	if wait.Closed(c.exited) {
		c.runOnExit()
	}
}

func (c *Child) runOnExit() {
	if f := c.onExit.Swap(nil); f != nil {
		(*f)()
	}
}

// event returns an event of the child at this moment.
func (c *Child) event() ChildEvent {
	return ChildEvent{Name: c.spec.Name, ID: c.id, PID: c.PID(), At: time.Now()}
}

// ID returns the child's unique id.
func (c *Child) ID() string { return c.id }

// Name returns the child's name, which need not be unique.
func (c *Child) Name() string { return c.spec.Name }

// PID returns the child's process id.
func (c *Child) PID() int { return c.proc.PID() }

// Spec returns the child's spec. The caller must not change it.
func (c *Child) Spec() *spawnspec.Spec { return c.spec }

// Boot returns how long each step of the child's start took.
func (c *Child) Boot() BootTimes { return c.boot }

// Channel returns the channel to the child. The methods of Child report the
// child's exit status as an [*ExitError], and those of the Channel do not. It returns
// nil for a program.
func (c *Child) Channel() *transport.Channel {
	if c.peer == nil {
		return nil
	}
	return c.peer.Channel
}

// Send sends v as one message; see [transport.Channel.Send]. If the child has
// ended, the error is an [*ExitError].
func (c *Child) Send(ctx context.Context, v any) error {
	if c.peer == nil {
		return c.noChannel()
	}
	return c.explain(ctx, c.peer.Channel.Send(ctx, v))
}

// Recv receives one message into v; see [transport.Channel.Recv]. After the
// last message of a child that has ended, the error is an [*ExitError]. If the
// child closes its channel and keeps running, Recv returns the channel's error
// after two seconds, or when ctx ends.
func (c *Child) Recv(ctx context.Context, v any) error {
	if c.peer == nil {
		return c.noChannel()
	}
	return c.explain(ctx, c.peer.Channel.Recv(ctx, v))
}

// SendBytes sends p as one raw message; see [transport.Channel.SendBytes].
func (c *Child) SendBytes(ctx context.Context, p []byte) error {
	if c.peer == nil {
		return c.noChannel()
	}
	return c.explain(ctx, c.peer.Channel.SendBytes(ctx, p))
}

// RecvBytes receives one raw message into buf; see
// [transport.Channel.RecvBytes].
func (c *Child) RecvBytes(ctx context.Context, buf []byte) (int, error) {
	if c.peer == nil {
		return 0, c.noChannel()
	}
	n, err := c.peer.Channel.RecvBytes(ctx, buf)
	return n, c.explain(ctx, err)
}

// statusBound is how long explain waits for the child's exit status after the
// end of its channel. The kernel closes the sockets of a process a moment before
// the process can be waited for. After a goodbye the child has still to exit.
const statusBound = 2 * time.Second

// explain returns an [*ExitError] in place of err if the channel has ended
// because the child has.
func (c *Child) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, transport.ErrPeerGone), errors.Is(err, io.EOF):
	case errors.Is(err, transport.ErrChannelClosed) && (wait.Closed(c.exited) || c.isReleased()):
		// stopped or released by this side
	default:
		return err
	}
	if !c.awaitExitOrRelease(ctx) {
		return err // it has closed its channel and keeps running
	}
	if c.isReleased() {
		return c.wasReleased()
	}
	var bye *transport.GoodbyeError
	if errors.As(err, &bye) {
		c.words.Do(func() { c.said, c.well = bye.Reason, bye.Status == 0 })
	}
	return c.exitError(err)
}

// Err returns nil if the child is running or has exited with status 0. Otherwise
// it returns an [*ExitError] with the child's last words. If the exit status is
// unknown, the status in the child's goodbye decides.
func (c *Child) Err() error {
	if !wait.Closed(c.exited) || c.succeeded() {
		return nil
	}
	return c.exitError(nil)
}

// succeeded reports whether a child that has ended did so with success.
func (c *Child) succeeded() bool {
	if c.status.Known() {
		return c.status.Success()
	}
	c.lastWords()
	return c.well
}

func (c *Child) exitError(err error) *ExitError {
	if silence := c.silence(); silence != nil {
		err = silence
	}
	return &ExitError{
		Name: c.spec.Name, PID: c.PID(), Status: c.status, Said: c.lastWords(),
		Stderr: c.StderrTail(), err: err, lost: lostOf(c.proc),
	}
}

// lastWords returns the reason in the goodbye of a child that has ended. A
// failing child also sends it on its control connection, where nothing else is
// read.
func (c *Child) lastWords() string {
	if !wait.Closed(c.exited) {
		return "" // it could not be ended
	}
	c.words.Do(func() {
		if c.peer == nil || c.status.Known() && c.status.Code() <= 0 {
			return // it says nothing, a signal ended it, or it succeeded
		}
		ctx, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		if bye, ok := c.expected.Internal(access.Key{}).LastWords(ctx); ok {
			c.said, c.well = bye.Reason, bye.Status == 0
		}
	})
	return c.said
}

// awaitExit waits until the process has ended, d has passed or ctx has ended,
// and reports whether the process has ended.
func (c *Child) awaitExit(ctx context.Context, d time.Duration) bool {
	return wait.For(ctx, c.exited, d)
}

// letGo waits until the child has ended its sending direction, and then ends this
// side's. A child that closes over TCP waits for that, and the program may not be
// receiving. There is no event for it, so letGo polls, with pauses from least to
// most. It returns when the process has ended, or ctx.
func (c *Child) letGo(ctx context.Context, least, most time.Duration) {
	conn := c.peer.Channel.NetConn()
	for pause := least; !network.Ended(conn); pause = min(2*pause, most) {
		if wait.For(ctx, c.exited, pause) || ctx.Err() != nil {
			return
		}
	}
	c.peer.Channel.Frames(access.Key{}).LetGo()
}

// Exited returns a channel that is closed when the process has ended.
func (c *Child) Exited() <-chan struct{} { return c.exited }

// Wait waits until the process has ended and returns its status. It does not
// wait for the process's pipes. If ctx ends first, it returns ctx's error. Wait
// may be called again, and then returns the same status.
func (c *Child) Wait(ctx context.Context) (ExitStatus, error) {
	if !wait.Closed(c.exited) {
		select {
		case <-c.exited:
		case <-ctx.Done():
			return ExitStatus{}, wait.Cause(ctx)
		}
	}
	return c.status, nil
}

// Signal sends a signal to the child's process, but not to the rest of its
// process group. If the child has ended, it returns [os.ErrProcessDone]. A released
// child gets no signal, and the error matches [ErrReleased].
func (c *Child) Signal(sig syscall.Signal) error {
	if c.isReleased() {
		return c.wasReleased()
	}
	err := c.proc.Signal(sig)
	c.report.signalled(slog.LevelDebug, c.event(), sig, false, err)
	return err
}

// LostOutput returns how many bytes of the child's captured output the writers have
// not got, and will not get: they were too slow, or have failed.
func (c *Child) LostOutput() int64 { return c.streams.Lost() }

// StdoutTail returns the last 4 KiB of the child's captured stdout.
func (c *Child) StdoutTail() string {
	if c.streams.Stdout == nil {
		return ""
	}
	return c.streams.Stdout.LastBytes()
}

// StderrTail returns the last 4 KiB of the child's captured stderr. If a Go
// program has crashed with a longer trace, the tail begins with the reason, the
// lines before the trace.
func (c *Child) StderrTail() string {
	if c.streams.Stderr == nil {
		return ""
	}
	return c.streams.Stderr.LastBytes()
}
