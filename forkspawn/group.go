package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// ErrGroupDone is the error of a start in a Group that was cancelled, or whose Wait has returned.
var ErrGroupDone = errors.New("forkspawn: the group is done")

// GroupConfig has the settings of a Group. Its zero value is ready to use.
type GroupConfig struct {
	// Restart says when children that Go started are started anew.
	Restart RestartPolicy
}

// Group is a set of children that live and die together, in the habit of errgroup: the first that fails
// ends all others, and Wait returns all that failed. Make one with [Spawner.NewGroup]. Its methods may be called
// concurrently.
//
// A child fails when it cannot be started, when it ends by itself with anything but exit status 0, or
// when the function that Go runs beside it returns an error. What happens to the others
// because the group was cancelled is no failure: neither the signals that end them nor what their
// channels say of it. One that fails of its own while it is being asked to stop is one.
//
// When the group is cancelled, all its children are asked to stop at the same time, with the ladder of Child.Stop. In a process
// that was itself spawned the graces shrink to what its own parent leaves it: its children have to
// heed within half of the parent's Config.StopGrace and are killed after three quarters, so that a tree ends from its
// leaves upward within the root's grace.
type Group struct {
	s      *Spawner
	policy RestartPolicy
	ctx    context.Context // ends when the group is cancelled, and with Wait
	cancel context.CancelCauseFunc

	mu      sync.Mutex          // guards what follows; never held over input, output or a wait
	running int                 // children that were let in, and are not over
	idle    chan struct{}       // closed, and replaced by the next start, when running is 0
	done    bool                // Wait has returned
	left    map[*Child]struct{} // ended by themselves, and still the caller's to receive from
	errs    []error
}

// NewGroup makes a Group. ctx is its life: when that ends the group is cancelled, with the same cause, and so it is
// when the Spawner is closed. A field of cfg that is wrong gives a [*ConfigError].
//
// The caller calls Wait, or ends ctx, in the end.
func (s *Spawner) NewGroup(ctx context.Context, cfg GroupConfig) (*Group, error) {
	policy, err := cfg.Restart.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Group{s: s, policy: policy, idle: make(chan struct{}), left: make(map[*Child]struct{})}
	close(g.idle)
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	detach := context.AfterFunc(s.ctx, func() { g.cancel(ErrClosed) })
	context.AfterFunc(g.ctx, func() { detach() }) // also of a group for which nobody waits
	return g, nil
}

// Context ends when the group is cancelled, by a failure (which is its cause), by Cancel or by the end of the
// context that it was made with, and when Wait has returned.
func (g *Group) Context() context.Context { return g.ctx }

// Cancel ends the group: no child is started any more, and those that there are are stopped, all at the same
// time. It does not wait. cause is that of Context; it is not a failure that Wait returns, unless nothing
// failed.
func (g *Group) Cancel(cause error) { g.cancel(cause) }

// Spawn starts a child in the group and returns when it is ready, as [Spawner.Spawn] does. A start
// that fails cancels the group, and so does the child when it fails later. It is not started anew.
//
// In a group that is done, or is cancelled meanwhile, the error matches [ErrGroupDone] and the group's cause, and nothing
// is left of the child. Spawn's ctx is that of the start alone, and a start that fails because it has ended
// is no failure of the group.
func (g *Group) Spawn(ctx context.Context, spec spawnspec.Spec) (*Child, error) {
	return g.SpawnCommand(ctx, g.s.cfg.Command, spec)
}

// SpawnCommand is Spawn with a program of the caller's choice.
func (g *Group) SpawnCommand(ctx context.Context, cmd Command, spec spawnspec.Spec) (*Child, error) {
	if err := g.enter(); err != nil {
		return nil, &BootError{Name: spec.Name, Phase: handshake.PhaseStart, Err: err}
	}
	c, err := g.start(ctx, cmd, spec)
	if err != nil {
		if ctx.Err() == nil && !g.refused(err) {
			g.fail(err)
		}
		g.leave(nil)
		return nil, err
	}
	go func() {
		select {
		case <-c.gone:
			if c.stopping.Load() { // by the caller, who may have used force
				g.stop(c)
			} else if err := c.Err(); err != nil {
				g.fail(err)
			}
			g.leave(c) // what it sent before it ended can still be received
			select {
			case <-c.stopped: // by the caller
			case <-g.ctx.Done(): // perhaps without a Wait
				c.Stop(g.stopContext())
			}
			g.forget(c)
		case <-g.ctx.Done():
			g.stop(c)
			g.leave(nil)
		}
	}()
	return c, nil
}

// Go starts a child in the group and calls run with it, all in a goroutine of the group's own. When run returns, the child is
// stopped. run's ctx ends when the child does, or the group is cancelled; the child is stopped then, in any case. A nil run waits for
// the child's end.
//
// The child fails with run's error, or its own. When it has failed, or has ended, the group's RestartPolicy decides whether it is
// started anew, with the same orders, and run called again. When it is not, its failure cancels the group.
//
// In a group that is done the error matches [ErrGroupDone]; other failures are Wait's.
func (g *Group) Go(spec spawnspec.Spec, run func(ctx context.Context, c *Child) error) error {
	return g.GoCommand(g.s.cfg.Command, spec, run)
}

// GoCommand is Go with a program of the caller's choice.
func (g *Group) GoCommand(cmd Command, spec spawnspec.Spec, run func(ctx context.Context, c *Child) error) error {
	if err := g.enter(); err != nil {
		return err
	}
	go func() {
		defer g.leave(nil)
		g.supervise(cmd, spec, run)
	}()
	return nil
}

// Wait waits until all children have ended and returns what failed: all failures, joined, in the order in which
// they came, or, when nothing failed and the group was cancelled, the cause of that, or nil.
// Then the group is done, and whatever its children hold here is given back.
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
	left, errs := slices.Collect(maps.Keys(g.left)), g.errs
	g.mu.Unlock()
	cause := context.Cause(g.ctx)
	g.cancel(ErrGroupDone)
	for _, c := range left {
		c.Stop(g.stopContext()) // takes no time: they have ended
	}
	if len(errs) == 0 {
		if cause == ErrGroupDone { // of an earlier Wait
			return nil
		}
		return cause
	}
	return errors.Join(errs...)
}

// enter lets a child in, unless the group is done.
func (g *Group) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch cause := context.Cause(g.ctx); {
	case g.done || cause == ErrGroupDone:
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

// leave says that a child is over; one that is not nil is kept until forget, for Wait.
func (g *Group) leave(kept *Child) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if kept != nil {
		g.left[kept] = struct{}{}
	}
	if g.running--; g.running == 0 {
		close(g.idle)
	}
}

// forget lets go of a child that is stopped.
func (g *Group) forget(c *Child) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.left, c)
}

// fail notes a failure and cancels the group.
func (g *Group) fail(err error) {
	g.mu.Lock()
	g.errs = append(g.errs, err)
	g.mu.Unlock()
	g.cancel(err)
}

// start starts a child under the group's context and ctx.
func (g *Group) start(ctx context.Context, cmd Command, spec spawnspec.Spec) (*Child, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.ctx, func() { cancel(fmt.Errorf("%w: %w", ErrGroupDone, context.Cause(g.ctx))) })()
	return g.s.SpawnCommand(ctx, cmd, spec)
}

// stopContext has the values of the group's context, such as whose child this process is, and does not end with
// it: a stop must not be cut short by what began it.
func (g *Group) stopContext() context.Context { return context.WithoutCancel(g.ctx) }

// stop stops a child of a group that was cancelled, and notes a failure of its own.
func (g *Group) stop(c *Child) {
	result, err := c.Stop(g.stopContext())
	if err != nil {
		g.fail(err)
	} else if failed(result) {
		g.fail(c.Err())
	}
}

// failed tells whether a child failed of its own: it ended before force was used on it, and not well.
func failed(r StopResult) bool {
	return (r.By == EndedBefore || r.By == EndedAsked) && !r.Status.Success()
}

// supervise runs a child, again and again if the policy says so.
func (g *Group) supervise(cmd Command, spec spawnspec.Spec, run func(context.Context, *Child) error) {
	history := restarts{policy: g.policy}
	for {
		c, err := g.runOnce(cmd, spec, run)
		if g.s.ctx.Err() != nil {
			g.cancel(ErrClosed) // which is also on its way from there
		}
		if g.ctx.Err() != nil {
			if err != nil {
				g.fail(err)
			}
			return
		}
		info, again, err := history.next(nameOf(spec), err, time.Now())
		if !again {
			if err != nil {
				g.fail(err)
			}
			return
		}
		e := ChildEvent{Name: nameOf(spec), At: time.Now()}
		var boot *BootError
		switch {
		case c != nil:
			e = c.event()
		case errors.As(info.Cause, &boot):
			e.ID, e.PID = boot.ID, boot.PID
		}
		g.s.tell.restarting(e, info)
		if awaitClosed(context.Background(), g.ctx.Done(), info.Pause) {
			return
		}
	}
}

// nameOf is the name that Spawn gives the child.
func nameOf(spec spawnspec.Spec) string {
	if spec.Name == "" {
		return spec.Entry
	}
	return spec.Name
}

// runOnce is one life of a child. The error is its failure, and not what the group's end did to it.
func (g *Group) runOnce(cmd Command, spec spawnspec.Spec, run func(context.Context, *Child) error) (*Child, error) {
	c, err := g.start(g.stopContext(), cmd, spec) // which start itself cancels, with ErrGroupDone
	if err != nil {
		if g.refused(err) {
			err = nil
		}
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(g.ctx)
	defer cancel(nil)
	returned := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-c.gone:
			cancel(c.endCause())
		case <-g.ctx.Done():
			c.Stop(g.stopContext()) // and not only when run has seen it
		case <-returned:
		}
	})
	go func() {
		defer close(returned)
		if run == nil {
			<-ctx.Done()
			return
		}
		err = errGoexit
		err = run(ctx, c)
	}()
	<-returned
	ended := isClosed(c.gone) // by itself, or because somebody has stopped it
	watch.Wait()
	result, stopErr := c.Stop(g.stopContext())
	switch {
	case stopErr != nil:
		return c, errors.Join(err, stopErr)
	case failed(result):
		var exit *ExitError
		if err == nil || errors.As(err, &exit) || g.isConsequence(err) {
			return c, c.Err()
		}
		return c, errors.Join(err, c.Err())
	case err != nil && (g.ctx.Err() != nil || ended) && g.isConsequence(err):
		return c, nil // of the group's end, or of the child's own good one, or of a stop that somebody wanted
	}
	return c, err
}

// errGoexit is the failure of a run function that did not return.
var errGoexit = errors.New("forkspawn: the run function called runtime.Goexit")

// endCause is the cause of the context of a run function whose child has ended.
func (c *Child) endCause() error {
	if err := c.Err(); err != nil {
		return err
	}
	return &ExitError{Name: c.spec.Name, PID: c.PID(), Status: c.status}
}

// refused tells whether a start failed because the group, or the Spawner, is done.
func (g *Group) refused(err error) bool {
	if errors.Is(err, ErrClosed) {
		g.cancel(ErrClosed) // which is also on its way from the Spawner's end
	}
	return g.ctx.Err() != nil && (errors.Is(err, ErrGroupDone) || errors.Is(err, ErrClosed))
}

// isConsequence tells whether an error only says that a child has ended, or that its group has.
func (g *Group) isConsequence(err error) bool {
	var exit *ExitError
	if end := g.ctx.Err(); end != nil && errors.Is(err, end) {
		return true // which may be a deadline
	}
	return errors.As(err, &exit) || errors.Is(err, context.Canceled) || errors.Is(err, ErrGroupDone) ||
		errors.Is(err, transport.ErrPeerGone) || errors.Is(err, transport.ErrClosed) || errors.Is(err, io.EOF)
}
