package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/neterr"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// ErrGroupDone is the error of a start in a [Group] after its cancellation or
// after Wait.
var ErrGroupDone = errors.New("the group is done")

// Group is a set of children with a common life, like an errgroup: the first
// failure ends all children, and Wait returns all failures. Make one with
// [Spawner.NewGroup]. Its methods may be called concurrently.
//
// A child fails if it cannot be started, or ends by itself with any other exit
// status than 0. It also fails if the function given to Go returns an error. The
// consequences of the group's cancellation are not failures: neither the signals
// nor the errors of the channels. But a child has failed if it exits non-zero
// after only being asked to stop. A child that ends by SIGTERM, SIGINT or SIGHUP
// has not failed if the group is cancelled then or half a second later: service
// managers send such a signal to a program and its children together
// (KillMode in systemd.kill(5)).
//
// The cancellation stops all children at the same time, each as [Child.Stop]
// does. If this process was itself spawned and is asked to stop, its children
// must end within half of its own grace. They are killed after three quarters.
// So a tree of processes ends from its leaves upward, within the root's grace.
type Group struct {
	s      *Spawner
	cfg    GroupConfig
	ctx    context.Context // ends when the group is cancelled, and after Wait
	cancel context.CancelCauseFunc

	mu      sync.Mutex          // guards what follows; never held over input, output or a wait
	running int                 // children between enter and leave
	idle    chan struct{}       // closed when running becomes 0; replaced by the next start
	done    bool                // Wait has returned
	ended   map[*Child]struct{} // ended by themselves; the caller can still receive from them
	errs    []error
}

// NewGroup makes a Group. The group is cancelled when ctx ends, with the same
// cause, and when the Spawner is closed. If a field of cfg is invalid, the error
// is a [*ConfigError]. The caller must call [Group.Wait], or end ctx, in the end.
func (s *Spawner) NewGroup(ctx context.Context, cfg GroupConfig) (*Group, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Group{s: s, cfg: cfg, idle: make(chan struct{}), ended: make(map[*Child]struct{})}
	close(g.idle)
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	detach := context.AfterFunc(s.ctx, func() { g.cancel(ErrSpawnerClosed) })
	context.AfterFunc(g.ctx, func() { detach() }) // also without a Wait
	return g, nil
}

// Context returns the group's context. It ends when the group is cancelled, and
// after Wait. Its cause is the first failure, the cause given to Cancel, or that
// of the context given to NewGroup.
func (g *Group) Context() context.Context { return g.ctx }

// Cancel ends the group: it stops all children at the same time, and no child is
// started any more. It does not wait. cause becomes the cause of Context. Wait
// returns it only if nothing failed.
func (g *Group) Cancel(cause error) { g.cancel(cause) }

// Spawn starts a child in the group and returns when it is ready, like
// [Spawner.Spawn]. A failed start cancels the group, and so does a later failure
// of the child. The child is not restarted.
//
// If the group is done or is cancelled during the start, the error matches
// [ErrGroupDone] and the group's cause. Nothing of the child is left then. The
// context affects the start only. If the start fails because ctx has ended, the
// group has not failed.
func (g *Group) Spawn(ctx context.Context, spec spawnspec.Spec, opts ...Option) (*Child, error) {
	spec.Name = g.s.nameOf(&spec, opts)
	if err := g.enter(); err != nil {
		return nil, &BootError{Name: spec.Name, Phase: handshake.PhaseStart, err: err}
	}
	c, err := g.start(ctx, spec, opts)
	if err != nil {
		if ctx.Err() == nil && !g.endedBy(err) {
			g.fail(err)
		}
		g.leave(nil)
		return nil, err
	}
	go g.watch(c)
	return c, nil
}

// watch waits for the end of a child started by Spawn, or ends it with the group.
func (g *Group) watch(c *Child) {
	endLiveness := g.watchLiveness(c)
	select {
	case <-c.gone(): // it is no longer the group's
		endLiveness()
		g.leave(nil)
	case <-c.exited:
		endLiveness()
		if c.isReleased() {
			g.leave(nil)
			return
		}
		if c.stopping.Load() { // by the caller, maybe with force
			g.stop(c)
		} else if err := c.Err(); err != nil && !g.endedTogether(c) {
			g.fail(err)
		}
		g.leave(c) // the caller can still receive the child's last messages
		select {
		case <-c.stopped: // by the caller
		case <-g.ctx.Done(): // maybe without a Wait
			c.Stop(g.stopContext())
		}
		g.forget(c)
	case <-g.ctx.Done():
		endLiveness()
		g.stop(c)
		g.leave(nil)
	}
}

// Go starts a child in the group and calls run with it, in a new goroutine. When
// run returns, the group stops the child. The ctx of run ends when the child has
// ended or the group is cancelled, and then the group stops the child, too. If
// the child has ended, the cause of ctx is an [*ExitError]. A receive with ctx
// may then fail because of ctx, before it returns the child's last messages. A
// nil run waits for the child's end.
//
// When the child has failed, by run's error or its own, or has ended, the
// GroupConfig decides whether the group starts it again. Then the child gets the
// same spec, and run is called again. Otherwise a failure cancels the group. After
// Spec.Deadline no child is started again, and neither is a released child, which
// leaves the group.
//
// Go returns an error only if the group is done. It matches [ErrGroupDone]. Wait
// returns all other failures.
func (g *Group) Go(
	spec spawnspec.Spec, run func(ctx context.Context, c *Child) error, opts ...Option,
) error {
	spec.Name = g.s.nameOf(&spec, opts)
	if err := g.enter(); err != nil {
		return prefixed(fmt.Sprintf("start %q", spec.Name), err)
	}
	go func() {
		defer g.leave(nil)
		g.supervise(spec, run, opts)
	}()
	return nil
}

// Wait waits until all children have ended. It returns all failures, joined in
// the order of their occurrence, except those that led to a restart: Trace.Restarting
// reports these. If nothing failed and the group was cancelled, Wait returns the
// cause, for example a [*SignalError] after Ctrl-C. After Wait the group is done.
func (g *Group) Wait() error {
	for {
		g.mu.Lock()
		idle := g.idle
		if g.running == 0 {
			g.done = true
			break
		}
		g.mu.Unlock()
		<-idle
	}
	ended, errs := slices.Collect(maps.Keys(g.ended)), g.errs
	g.mu.Unlock()
	cause := context.Cause(g.ctx)
	g.cancel(ErrGroupDone)
	for _, c := range ended {
		c.Stop(g.stopContext())
	}
	if len(errs) == 0 {
		if cause == ErrGroupDone { //nolint:errorlint // from an earlier Wait of this group
			return nil
		}
		return cause
	}
	return errors.Join(errs...)
}

// enter counts a child, unless the group is done. leave must follow.
func (g *Group) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch cause := context.Cause(g.ctx); {
	case g.done || cause == ErrGroupDone: //nolint:errorlint // the very same
		return ErrGroupDone
	case cause != nil:
		return fmt.Errorf("%w: %w", ErrGroupDone, cause)
	}
	if g.running == 0 {
		g.idle = make(chan struct{})
	}
	g.running++
	return nil
}

// leave ends the count of a child. If ended is not nil, Wait will stop that child,
// unless forget is called before.
func (g *Group) leave(ended *Child) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ended != nil {
		g.ended[ended] = struct{}{}
	}
	if g.running--; g.running == 0 {
		close(g.idle)
	}
}

// forget removes a stopped child.
func (g *Group) forget(c *Child) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.ended, c)
}

// fail records a failure and cancels the group.
func (g *Group) fail(err error) {
	g.mu.Lock()
	g.errs = append(g.errs, err)
	g.mu.Unlock()
	g.cancel(err)
}

// start starts a child. The start fails when ctx or the group's context ends.
func (g *Group) start(ctx context.Context, spec spawnspec.Spec, opts []Option) (*Child, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.ctx, func() {
		cancel(fmt.Errorf("%w: %w", ErrGroupDone, context.Cause(g.ctx)))
	})()
	return g.s.Spawn(ctx, spec, opts...)
}

// stopContext returns a context for stops. It has the values of the group's
// context, among them the Parent. It does not end with the group's context,
// because that end begins the stops.
func (g *Group) stopContext() context.Context { return context.WithoutCancel(g.ctx) }

// stop stops a child and records its own failure, if any.
func (g *Group) stop(c *Child) {
	result, err := c.Stop(g.stopContext())
	if err != nil {
		g.fail(err)
	} else if g.failed(c, result) {
		g.fail(c.Err())
	}
}

// failed reports whether a child failed by itself: it ended without success
// before force was used.
func (g *Group) failed(c *Child, r StopResult) bool {
	return (r.By == AlreadyEnded || r.By == Asked) && !c.succeeded() && !g.endedTogether(c)
}

// togetherBound is how long a group waits for its own cancellation after a
// signal of a service manager has ended a child.
const togetherBound = 500 * time.Millisecond

// endedTogether reports whether a signal has ended the child that has cancelled
// the group, too.
func (g *Group) endedTogether(c *Child) bool {
	switch c.status.Signal() {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP:
		return wait.For(context.Background(), g.ctx.Done(), togetherBound)
	}
	return false
}

// supervise runs a child, and again as often as the policy decides.
func (g *Group) supervise(
	spec spawnspec.Spec, run func(context.Context, *Child) error, opts []Option,
) {
	history := restarts{cfg: g.cfg}
	var earlier *life
	for {
		c, err := g.runOnce(spec, earlier, run, opts)
		if g.s.ctx.Err() != nil {
			g.cancel(ErrSpawnerClosed) // the Spawner's end will do so, too, but maybe later
		}
		var pause time.Duration
		final, again := err, g.ctx.Err() == nil
		if c != nil && c.isReleased() {
			again = false
		}
		if passed := !spec.Deadline.IsZero() && !time.Now().Before(spec.Deadline); passed {
			again = false
		}
		if again && (c == nil || !c.again.Load()) {
			pause, again, final = history.next(spec.Name, err, time.Now())
		}
		if !again {
			if final != nil {
				g.fail(final)
			}
			return
		}
		e := ChildEvent{Name: spec.Name, At: time.Now()}
		var boot *BootError
		switch {
		case c != nil:
			e = c.event()
		case errors.As(err, &boot):
			e.ID, e.PID = boot.ID, boot.PID
		}
		g.s.report.restarting(e, len(history.at), pause, err)
		earlier = g.s.pauseLife(earlier, spec.Name, err)
		ended := wait.For(context.Background(), g.ctx.Done(), pause)
		g.s.resumeLife(earlier)
		if ended {
			return
		}
	}
}

// runOnce is one life of a child. The error is the child's own failure, and not a
// consequence of the group's end.
func (g *Group) runOnce(
	spec spawnspec.Spec, earlier *life, run func(context.Context, *Child) error, opts []Option,
) (*Child, error) {
	c, err := g.start(g.stopContext(), spec, opts) // start itself adds the group's end
	if err != nil {
		if g.endedBy(err) {
			err = nil
		}
		return nil, err
	}
	g.s.noteLife(c, earlier)
	ctx, cancel := context.WithCancelCause(g.ctx)
	defer cancel(nil)
	endLiveness := g.watchLiveness(c)
	returned := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-c.gone():
			cancel(ErrReleased)
		case <-c.exited:
			cancel(c.endCause())
		case <-g.ctx.Done():
			c.Stop(g.stopContext()) // without waiting for run
		case <-returned:
		}
	})
	go func() {
		defer close(returned)
		if run == nil {
			<-ctx.Done()
			return
		}
		err = prefixed(fmt.Sprintf("child %q", spec.Name), errGoexit)
		err = run(ctx, c)
	}()
	<-returned
	endLiveness()
	ended := wait.Closed(c.exited) || isFarewell(err) // by itself, or by a Stop of the caller
	watch.Wait()
	result, stopErr := c.Stop(g.stopContext())
	switch {
	case c.isReleased() && (errors.Is(err, ErrReleased) || g.isConsequence(err)):
		return c, nil
	case c.isReleased():
		return c, err
	case stopErr != nil:
		return c, errors.Join(err, stopErr)
	case g.failed(c, result):
		var exit *ExitError
		if err == nil || errors.As(err, &exit) || g.isConsequence(err) {
			return c, c.Err()
		}
		return c, errors.Join(err, c.Err())
	case err != nil && (g.ctx.Err() != nil || ended) && g.isConsequence(err):
		return c, nil // a consequence of the group's end, the child's success or a Stop
	}
	return c, err
}

// isFarewell reports whether a peer that ends in order is the reason for err. Its process
// may end a moment later.
func isFarewell(err error) bool {
	return errors.Is(err, neterr.ErrEnding) || errors.As(err, new(*transport.GoodbyeError))
}

// errGoexit is the failure of a run function that did not return.
var errGoexit = errors.New("the run function called runtime.Goexit")

// endCause returns the cause of a run function's context after the child's end.
func (c *Child) endCause() error {
	if err := c.Err(); err != nil {
		return err
	}
	return &ExitError{Name: c.spec.Name, PID: c.PID(), Status: c.status}
}

// endedBy reports whether a start failed because the group or the Spawner has
// ended.
func (g *Group) endedBy(err error) bool {
	if errors.Is(err, ErrSpawnerClosed) {
		g.cancel(ErrSpawnerClosed) // the Spawner's end will do so, too, but maybe later
	}
	return g.ctx.Err() != nil && (errors.Is(err, ErrGroupDone) || errors.Is(err, ErrSpawnerClosed))
}

// isConsequence reports whether an error is only a consequence of the end of a
// child or of its group.
func (g *Group) isConsequence(err error) bool {
	var exit *ExitError
	if end := g.ctx.Err(); end != nil && errors.Is(err, end) {
		return true // this includes a deadline
	}
	return errors.As(err, &exit) || errors.Is(err, context.Canceled) ||
		errors.Is(err, ErrGroupDone) || isFarewell(err) ||
		errors.Is(err, transport.ErrPeerGone) ||
		errors.Is(err, transport.ErrChannelClosed) || errors.Is(err, io.EOF)
}
