package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// ErrDied is the error when a child ended before it was ready, and nothing
// better is known.
var ErrDied = errors.New("the child ended before it was ready")

// ErrBootTimeout is the cause when a child was not ready within
// Config.BootTimeout.
var ErrBootTimeout = errors.New("not ready in time")

const (
	// lastWords is how long AwaitReady and Child.lastWords wait for the last
	// words of a dead process. They are already in this process or in the
	// kernel, but a busy machine can delay the goroutines that read them.
	lastWords = time.Second
	// dyingBound is how long Spawn waits for the exit status of a child
	// after a failed handshake. The end of the connection and the end of
	// the process arrive separately, and a failed child exits just after
	// its report. Spawn waits the whole time only if the child keeps running.
	dyingBound = 3 * time.Second
	// acceptPatience is how long Spawn waits for its child's connection
	// while connections cannot be accepted. Most shortages of descriptors
	// pass. One cannot pass if many calls of Spawn wait for descriptors
	// while their own pipes hold the last ones; then some of them must fail.
	// The bound is longer than the longest pause between two accepts.
	acceptPatience = 2 * time.Second
)

// AwaitReady waits until the expected peer is ready, its handshake fails, its
// process has ended, or ctx has. It returns the peer or an error: the
// handshake's own (a [*handshake.Error]), [ErrDied], or the cause of ctx. The
// caller closes exited when the process has ended.
//
// AwaitReady is the wait of Spawn, for runtimes with their own way to start a
// process. It neither ends the process nor cancels x.
//
// When several of these are true at once, the order is: ready, the peer's own
// words, the death, the context. If a child reports ready and dies at the same
// moment, it is either a peer or a death, but never a timeout. The next receive
// from such a peer fails with its exit status.
func AwaitReady(
	ctx context.Context, x *handshake.Expected, exited <-chan struct{},
) (*handshake.Peer, error) {
	select {
	case <-x.Done():
	case <-exited:
		words, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		x.Internal(access.Key{}).AwaitWords(words)
	case <-ctx.Done():
	}
	switch {
	case wait.Closed(x.Done()):
		return x.WaitForPeer(ctx)
	case wait.Closed(exited):
		return nil, ErrDied
	}
	return nil, wait.Cause(ctx)
}

// limits are the contexts of a boot: ctx ends with the caller's context and
// with the Spawner, and timed also after Config.BootTimeout.
type limits struct {
	ctx, timed context.Context
	cancel     context.CancelCauseFunc
}

// limit returns the limits of a boot. The time begins now.
func (b *boot) limit(ctx context.Context) (l limits, release func()) {
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	detach := context.AfterFunc(b.s.ctx, func() { l.cancel(ErrSpawnerClosed) })
	timed, stop := context.WithTimeoutCause(l.ctx, b.s.cfg.BootTimeout, ErrBootTimeout)
	l.timed = timed
	return l, func() {
		stop()
		detach()
		l.cancel(nil)
	}
}

// awaitReady waits until the child is ready.
func (a *attempt) awaitReady(l limits) (*handshake.Peer, error) {
	defer a.watchStop(l.cancel)()
	defer a.unmark()
	if !a.spare && !a.connected {
		defer a.watchAccept(l.cancel)()
	}
	return a.await(l, func(ctx context.Context) (*handshake.Peer, error) {
		return AwaitReady(ctx, a.expected, a.child.exited)
	})
}

// awaitWelcome waits until the child waits for its spec, as a spare does.
func (a *attempt) awaitWelcome(l limits) (*handshake.Peer, error) {
	defer a.watchAccept(l.cancel)()
	defer a.unmark()
	return a.await(l, a.raceWelcome)
}

// await runs race until Config.BootTimeout, and again as long as a debugger
// holds the child.
func (a *attempt) await(
	l limits, race func(context.Context) (*handshake.Peer, error),
) (*handshake.Peer, error) {
	peer, err := race(l.timed)
	for errors.Is(err, ErrBootTimeout) && a.s.heldByDebugger(l.ctx, a.child) {
		more, stop := context.WithTimeoutCause(l.ctx, debuggerPause, ErrBootTimeout)
		peer, err = race(more)
		stop()
	}
	return peer, err
}

// raceWelcome is AwaitReady for a future spare: it waits until the child waits.
func (a *attempt) raceWelcome(ctx context.Context) (*handshake.Peer, error) {
	x := a.expected.Internal(access.Key{})
	select {
	case <-x.Welcomed():
	case <-a.expected.Done():
	case <-a.child.exited:
	case <-ctx.Done():
	}
	if peer := x.Waiting(); peer != nil {
		return peer, nil // if it has died, the Spawner notices soon enough
	}
	return AwaitReady(ctx, a.expected, a.child.exited)
}

// acceptError is the error when this process cannot accept connections.
type acceptError struct{ err error }

func (e *acceptError) Error() string { return "connections cannot be accepted: " + e.err.Error() }
func (e *acceptError) Unwrap() error { return e.err }

// watchAccept calls end when the child's connection could not be accepted for
// acceptPatience. The caller calls stop.
func (a *attempt) watchAccept(end context.CancelCauseFunc) (stop func()) {
	ended := make(chan struct{})
	timer := time.AfterFunc(acceptPatience, func() {
		for {
			if err := a.acceptError(); err != nil {
				end(err)
				return
			}
			if wait.For(context.Background(), ended, acceptPatience) {
				return
			}
		}
	})
	return func() {
		timer.Stop()
		close(ended)
	}
}

// StoppedError is the cause when a terminal has stopped a child before it was
// ready: it reads from the terminal (SIGTTIN) or changes its settings (SIGTTOU).
// Children are not in the terminal's foreground, so nobody would continue it.
// Command.NewSession lets such a program fail by itself.
type StoppedError struct {
	Signal syscall.Signal
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf(
		"stopped by the terminal (%v): it needs the terminal, and children are in the background; "+
			"Command.NewSession keeps the terminal from it", e.Signal)
}

// stopInterval is the time between looks whether a booting child is stopped.
const stopInterval = 200 * time.Millisecond

// watchStop calls end when a terminal has stopped the child. The caller calls
// stop.
func (a *attempt) watchStop(end context.CancelCauseFunc) (stop func()) {
	p, ok := a.child.proc.(osProcess)
	if !ok {
		return func() {}
	}
	ended := make(chan struct{})
	timer := time.AfterFunc(stopInterval, func() {
		for {
			switch sig := p.StoppedBy(); sig {
			case osproc.SIGTTIN, osproc.SIGTTOU:
				end(&StoppedError{sig})
				return
			}
			if wait.For(context.Background(), ended, stopInterval) {
				return
			}
		}
	})
	return func() {
		timer.Stop()
		close(ended)
	}
}

// acceptError returns an [*acceptError] if accepts fail and the child has not
// connected, and nil otherwise.
func (a *attempt) acceptError() error {
	if err := a.expected.Internal(access.Key{}).AcceptErr(); err != nil && !a.connected &&
		a.expected.Phase() == handshake.PhaseConnect {
		return &acceptError{explainScarcity(err)}
	}
	return nil
}

// abandon ends the child of a failed boot and returns the boot's error.
func (a *attempt) abandon(ctx context.Context, cause error) error {
	c := a.child
	phase, cause, fromPeer := a.explain(cause)
	died := wait.Closed(c.exited)
	if fromPeer && !died {
		died = c.awaitExit(ctx, dyingBound)
	}
	if died && errors.Is(cause, transport.ErrPeerGone) {
		cause = ErrDied // the exit status explains the end of the connection
	}
	if lost := lostOf(c.proc); died && lost != nil {
		cause = wait.Both(lost, cause)
	}
	failed := time.Now()
	if !died {
		c.signalGroup(sigkill)
		if !c.awaitExit(context.Background(), killBound) {
			cause = fmt.Errorf("%w; %w", cause, errUnkillable)
		}
	}
	err := a.bootError(phase, cause, failed)
	err.ID, err.PID, err.Phases = a.id, c.PID(), a.phases(failed)
	if died {
		err.Status = c.status
	}
	err.Stderr = c.StderrTail()
	c.release()
	a.report.bootFailed(a.caller, err)
	return err
}

// explain returns the phase of the failure, and the cause with more details.
// fromPeer reports whether the child itself has reported the failure.
func (a *attempt) explain(cause error) (phase handshake.Phase, _ error, fromPeer bool) {
	var herr *handshake.Error
	switch {
	case a.program:
		return handshake.PhaseReady, cause, false
	case errors.As(cause, &herr):
		return herr.Phase, herr.Err, true
	}
	phase = a.expected.Phase()
	if refused := a.expected.Internal(access.Key{}).Refused(); refused != nil {
		// A client with the child's id was refused. Most likely it was
		// the child itself.
		if errors.As(refused, &herr) {
			phase, refused = herr.Phase, herr.Err
		}
		if cause == ErrDied { //nolint:errorlint // the very same
			return phase, refused, false
		}
		return phase, fmt.Errorf("%w; %w", cause, refused), false
	}
	var stuck *acceptError
	if errors.As(cause, &stuck) {
		return phase, stuck, false // watchAccept has ended the boot's context because of it
	}
	if err := a.acceptError(); err != nil && cause != ErrDied { //nolint:errorlint // the very same
		cause = fmt.Errorf("%w; %w", cause, err)
	}
	return phase, cause, false
}
