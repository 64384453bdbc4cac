package forkspawn

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

const sigkill = syscall.SIGKILL

// Child is a process that Spawn started and that said it is ready. Its methods may be called
// concurrently. Stop ends it and gives back what it holds here, a descriptor or two; also of a child
// that has ended by itself.
type Child struct {
	s       *Spawner
	id      string
	spec    *spawnspec.Spec
	tell    *teller
	proc    Process
	streams streams
	peer    *handshake.Peer // set before Spawn returns, or the child is among the spares
	boot    BootTimes
	intro   *introduction // of a child that was a spare; nil for one that was nobody else's before

	onBehalfOf *Parent // who asked this process, or the entry in it, for the work that the child does; nil at the root

	gone   chan struct{} // closed when the process has ended, after status is set
	status ExitStatus
	onGone atomic.Pointer[func()] // called then, once, if it is not nil; see callWhenGone

	stop     sync.Once
	stopping atomic.Bool   // Stop, or Kill, was called
	killed   atomic.Bool   // kill has sent SIGKILL
	stopped  chan struct{} // closed when Stop is done, after result is set
	result   StopResult
	stopErr  error

	words sync.Once // lastWords
	said  string
}

// newChild takes over a process and waits for its end.
func newChild(b *boot, proc Process, st streams, spare bool) *Child {
	c := &Child{
		s: b.s, id: b.id, spec: &b.spec, tell: b.tell, proc: proc, streams: st,
		gone: make(chan struct{}), stopped: make(chan struct{}),
	}
	if spare {
		c.intro = newIntroduction()
	}
	b.s.reaps.Go(c.reap)
	return c
}

// reap waits for the process, which every Child has until its end.
func (c *Child) reap() {
	c.status = c.proc.Wait()
	c.s.forks.reaped(c.proc)
	c.streams.settle() // what it wrote belongs to the news of its end
	uds.RemoveBeside(c.s.peers.Addr(), socketPrefix(c.id))
	c.s.reaper.ended(c.PID(), c.id)
	c.intro.close()
	e, tell := c.event(), c.tell
	tell.exited(e, c.status) // before anybody else learns of it, so that no count lags behind
	close(c.gone)
	c.tellGone()
	if !c.streams.end() {
		e.At = time.Now()
		tell.writerLate(e)
	}
}

// callWhenGone has f called when the process has ended, in place of what was to be called so far.
func (c *Child) callWhenGone(f func()) {
	c.onGone.Store(&f)
	if isClosed(c.gone) {
		c.tellGone()
	}
}

func (c *Child) tellGone() {
	if f := c.onGone.Swap(nil); f != nil {
		(*f)()
	}
}

// event is what has just happened to the child.
func (c *Child) event() ChildEvent { return ChildEvent{c.spec.Name, c.id, c.PID(), time.Now()} }

// ID returns the child's unique id.
func (c *Child) ID() string { return c.id }

// Name returns the child's name, which need not be unique.
func (c *Child) Name() string { return c.spec.Name }

// PID returns the child's process id.
func (c *Child) PID() int { return c.proc.PID() }

// Spec returns the orders that the child got. They must not be changed.
func (c *Child) Spec() *spawnspec.Spec { return c.spec }

// Boot says where the time of the child's start went.
func (c *Child) Boot() BootTimes { return c.boot }

// Channel returns the channel to the child. Send, Recv and their like of the Child itself know the
// child's exit status, which the Channel does not.
func (c *Child) Channel() *transport.Channel { return c.peer.Channel }

// Send sends v as one message; see transport.Channel.Send. When the child has ended the error is an
// [*ExitError].
func (c *Child) Send(ctx context.Context, v any) error {
	return c.explain(ctx, c.peer.Channel.Send(ctx, v))
}

// Recv receives one message into v; see transport.Channel.Recv. What the child sent before it ended is
// received first; then the error is an [*ExitError]. When the child has closed its channel and goes on, the
// channel's own error comes after two seconds, or when ctx ends.
func (c *Child) Recv(ctx context.Context, v any) error {
	return c.explain(ctx, c.peer.Channel.Recv(ctx, v))
}

// SendBytes sends p as one raw message; see transport.Channel.SendBytes.
func (c *Child) SendBytes(ctx context.Context, p []byte) error {
	return c.explain(ctx, c.peer.Channel.SendBytes(ctx, p))
}

// RecvBytes receives one raw message into buf; see transport.Channel.RecvBytes.
func (c *Child) RecvBytes(ctx context.Context, buf []byte) (int, error) {
	n, err := c.peer.Channel.RecvBytes(ctx, buf)
	return n, c.explain(ctx, err)
}

// RecvBorrowed receives one raw message in memory that is lent until the next receive; see
// transport.Channel.RecvBorrowed.
func (c *Child) RecvBorrowed(ctx context.Context) ([]byte, error) {
	b, err := c.peer.Channel.RecvBorrowed(ctx)
	return b, c.explain(ctx, err)
}

// statusBound is how long the end of a child's stream waits for the child's exit status, unless the
// caller's context ends before. A process that dies has its sockets closed a moment before it can be
// waited for, one that says goodbye has still to exit, and the machine may be busy.
const statusBound = 2 * time.Second

// explain turns the end of the stream into the end of the child, when that is what it was.
func (c *Child) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, transport.ErrPeerGone), errors.Is(err, io.EOF):
	case errors.Is(err, transport.ErrClosed) && isClosed(c.gone): // stopped by this side
	default:
		return err
	}
	if !c.awaitGone(ctx, statusBound) {
		return err // it closed its channel and lives
	}
	var bye *transport.GoodbyeError
	if errors.As(err, &bye) {
		c.words.Do(func() { c.said = bye.Reason })
	}
	return c.exitError(err)
}

// Err returns how the child failed: nil when it has not ended, or has ended with success, else an [*ExitError] with
// what it said as it closed.
func (c *Child) Err() error {
	if !isClosed(c.gone) || c.status.Success() {
		return nil
	}
	return c.exitError(nil)
}

func (c *Child) exitError(err error) *ExitError {
	return &ExitError{Name: c.spec.Name, PID: c.PID(), Status: c.status, Said: c.lastWords(), Stderr: c.StderrTail(), Err: err}
}

// lastWords returns what a child that has ended said of it as it closed its control connection.
func (c *Child) lastWords() string {
	if !isClosed(c.gone) {
		return "" // one that could not be ended
	}
	c.words.Do(func() {
		if c.status.Code() <= 0 {
			return // it had no time to, or nothing to say
		}
		ctx, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		if bye := c.peer.LastWords(ctx); bye != nil {
			c.said = bye.Reason
		}
	})
	return c.said
}

// awaitGone waits for the process's end, but not longer than d nor than ctx lasts, and reports whether it has
// ended.
func (c *Child) awaitGone(ctx context.Context, d time.Duration) bool {
	return awaitClosed(ctx, c.gone, d)
}

// Exited is closed when the process has ended.
func (c *Child) Exited() <-chan struct{} { return c.gone }

// Wait waits until the process has ended, or ctx has, and returns how. It does not wait for the
// process's pipes. The status is kept for as long as the Child is.
func (c *Child) Wait(ctx context.Context) (ExitStatus, error) {
	if !isClosed(c.gone) {
		select {
		case <-c.gone:
		case <-ctx.Done():
			return ExitStatus{}, contextError(ctx)
		}
	}
	return c.status, nil
}

// Signal sends a signal to the child's process alone, through its pidfd where there is one. For a
// child that has ended the error is os.ErrProcessDone.
func (c *Child) Signal(sig syscall.Signal) error {
	err := c.proc.Signal(sig, false)
	c.tell.signalled(slog.LevelDebug, c.event(), SignalInfo{sig, false, err})
	return err
}

// StdoutTail returns the last 4 KiB that the child wrote to a captured stdout.
func (c *Child) StdoutTail() string {
	if c.streams.stdout == nil {
		return ""
	}
	return c.streams.stdout.lastBytes()
}

// StderrTail returns the last 4 KiB that the child wrote to a captured stderr. When a Go program has crashed
// with a trace that is longer, the lines before the trace that say why stand in front.
func (c *Child) StderrTail() string {
	if c.streams.stderr == nil {
		return ""
	}
	return c.streams.stderr.lastBytes()
}
