package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// Ending says what ended a child.
type Ending string

// The endings, by rising force.
const (
	EndedBefore     Ending = "ended before"     // it had ended when Stop was called
	EndedAsked      Ending = "ended as asked"   // the cancel was enough
	EndedTerminated Ending = "ended on SIGTERM" // it took SIGTERM
	EndedKilled     Ending = "killed"           // it took SIGKILL
)

// StopResult says how a child ended and what it took.
type StopResult struct {
	Status  ExitStatus
	By      Ending
	Elapsed time.Duration // since Stop was called
}

func (r StopResult) String() string { return fmt.Sprintf("%s: %v", r.By, r.Status) }

// killBound is how long a process may take to end on SIGKILL. One in an uninterruptible sleep can
// take longer; it is reaped when it ends.
//
// Tests set it.
var killBound = 10 * time.Second

var errUnkillable = errors.New("still alive some time after SIGKILL")

// Stop ends the child and returns how it ended and what it took: it is asked to stop (its context ends,
// also while it is busy), then after Config.StopGrace its process group gets SIGTERM, then after
// Config.TermGrace SIGKILL. When ctx ends it is killed at once. What the child has started and left
// behind in its process group is killed with it.
//
// The channel is closed then, and what was not received is lost, also when a Recv is about to receive it: to have all
// that a child still sends, call Cancel, receive to the end, and then call Stop. Stop may be called again, and
// concurrently: it runs once, with the first caller's ctx, and all get the same result. The error is nil unless the
// process could not be ended.
func (c *Child) Stop(ctx context.Context) (StopResult, error) {
	c.stop.Do(func() {
		defer close(c.stopped)
		c.stopping.Store(true)
		c.result, c.stopErr = c.runLadder(ctx)
		c.lastWords()
		c.peer.Abort() // there is nobody at the other end
		c.s.remove(c)
		c.tell.stopped(c.event(), c.result, c.stopErr)
	})
	return c.result, c.stopErr
}

// Cancel asks the child to stop, as Stop does first, and does not wait: its context ends, also while it is busy. So
// its last messages can still be received; a call of Stop must follow. reason is for people. It returns when the
// kernel has the request, or ctx ends. For a child that has ended it does nothing.
func (c *Child) Cancel(ctx context.Context, reason string) error {
	if isClosed(c.gone) {
		return nil
	}
	c.tell.asked(c.event(), 0)
	err := c.peer.Cancel(ctx, transport.Cancel{Reason: reason})
	if err != nil && errors.Is(err, transport.ErrPeerGone) {
		return nil // it ends
	}
	return err
}

// Kill ends the child with SIGKILL, at once, and returns when it has ended. What it returns is what Stop
// does. A Stop under way is cut short.
func (c *Child) Kill() (StopResult, error) {
	c.kill()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return c.Stop(ctx)
}

// kill sends SIGKILL, once, whatever a Stop that is under way waits for. It does not wait.
func (c *Child) kill() {
	if !isClosed(c.gone) && c.killed.CompareAndSwap(false, true) {
		c.stopping.Store(true) // the end that comes is none of the child's own
		c.signalGroup(sigkill)
	}
}

// isKilled tells whether a child that has ended has done so on kill.
func (c *Child) isKilled() bool {
	return c.killed.Load() && c.status.Signal() == sigkill
}

func (c *Child) runLadder(ctx context.Context) (StopResult, error) {
	began := time.Now()
	result := func(by Ending) (StopResult, error) {
		if c.isKilled() { // by somebody who did not wait for this ladder
			by = EndedKilled
		}
		return StopResult{Status: c.status, By: by, Elapsed: time.Since(began)}, nil
	}
	if isClosed(c.gone) {
		return result(EndedBefore)
	}
	cfg := &c.s.cfg
	if c.ask(ctx, cfg.StopGrace) {
		return result(EndedAsked)
	}
	if ctx.Err() == nil {
		c.signalGroup(syscall.SIGTERM)
		c.signalGroup(sigcont) // a process that is stopped takes no other
		if c.awaitStep(ctx, stepTerm, cfg.TermGrace) {
			return result(EndedTerminated)
		}
	}
	c.kill()
	if c.awaitGone(context.Background(), killBound) {
		return result(EndedKilled)
	}
	return StopResult{By: EndedKilled, Elapsed: time.Since(began)},
		fmt.Errorf("forkspawn: stop %q (pid %d): %w", c.spec.Name, c.PID(), errUnkillable)
}

// ask sends the cancel and reports whether the child has ended within the grace. What the child is told of
// the grace is what is left of it here, so that a child's own children get less than the child.
func (c *Child) ask(ctx context.Context, grace time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	now := time.Now()
	until, _ := c.ladderLimit(ctx, stepAsk, now.Add(grace))
	grace = max(0, until.Sub(now))
	c.tell.asked(c.event(), grace)
	asking, cancel := context.WithTimeout(ctx, grace+time.Millisecond) // and not 0, which would not ask at all
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		// It can block when the child has no control connection and does not read. The grace bounds it.
		c.peer.Cancel(asking, transport.Cancel{Reason: "the parent stops the child", Grace: max(grace, time.Millisecond)})
	}()
	gone := c.awaitStep(ctx, stepAsk, grace)
	cancel()
	<-asked
	return gone
}

// ladderStep is a step of the stop ladder that waits.
type ladderStep int

const (
	stepAsk ladderStep = iota
	stepTerm
)

// awaitStep waits until the child has ended or it is time for more force, and reports whether it has ended: when the
// grace is over, or what this process's own parent or Hasten leaves of it, or when ctx ends.
func (c *Child) awaitStep(ctx context.Context, step ladderStep, grace time.Duration) bool {
	end := time.Now().Add(grace)
	for {
		limit, news := c.ladderLimit(ctx, step, end)
		timer := time.NewTimer(time.Until(limit))
		select {
		case <-c.gone:
		case <-ctx.Done():
		case <-news.hastened:
			timer.Stop()
			continue
		case <-news.asked:
			timer.Stop()
			continue
		case <-timer.C:
			if c.s.heldByDebugger(ctx, c) {
				end = time.Now()
				continue
			}
		}
		timer.Stop()
		return isClosed(c.gone)
	}
}

// debuggerPause is how long a ladder, or a boot, that a debugger holds up waits before it looks again.
const debuggerPause = 500 * time.Millisecond

// heldByDebugger waits a little and returns true when a child that ought to end is held by a debugger, and
// Config.WaitForDebugger says to let it be. Hasten and ctx do not wait for debuggers.
func (s *Spawner) heldByDebugger(ctx context.Context, c *Child) bool {
	s.mu.Lock()
	hastened, hasten := s.hastened > 0, s.hasten
	s.mu.Unlock()
	if !s.cfg.WaitForDebugger || hastened || !traced(c.PID()) {
		return false
	}
	timer := time.NewTimer(debuggerPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.gone:
	case <-hasten:
	case <-ctx.Done():
	}
	return true
}

// ladderNews are closed when the limit of a step may have changed; nil is never.
type ladderNews struct{ hastened, asked <-chan struct{} }

// ladderLimit is until when a step of a ladder may wait that would wait until end.
func (c *Child) ladderLimit(ctx context.Context, step ladderStep, end time.Time) (time.Time, ladderNews) {
	c.s.mu.Lock()
	hastened, news := c.s.hastened > int(step), ladderNews{hastened: c.s.hasten}
	c.s.mu.Unlock()
	if hastened {
		return time.Now(), news
	}
	parent := parentIn(ctx, c.onBehalfOf) // as Close has no context
	if parent == nil {
		return end, news
	}
	// What is left of the grace of this process itself is shared: the children have ended before their parent
	// is ended by its own.
	askedAt, grace, changed := parent.demand()
	news.asked = changed
	if grace == 0 { // it has not asked, or did not say
		return end, news
	}
	own := askedAt.Add(grace / 2)
	if step == stepTerm {
		own = askedAt.Add(grace * 3 / 4)
	}
	if own.Before(end) {
		end = own
	}
	return end, news
}

// Hasten shortens every stop of this Spawner's children that is under way, and every later one: from the first call on
// they do not wait Config.StopGrace for a child that was asked, but send SIGTERM at once, and
// from the second on they do not wait TermGrace either. It is what a second Ctrl-C should do; NotifyContext
// calls it.
func (s *Spawner) Hasten() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hastened++
	close(s.hasten)
	s.hasten = make(chan struct{})
}

// signalGroup sends a signal to the child's process group and tells it.
func (c *Child) signalGroup(sig syscall.Signal) {
	err := c.proc.Signal(sig, true)
	level := slog.LevelWarn
	if sig == sigcont || errors.Is(err, os.ErrProcessDone) {
		level = slog.LevelDebug
	}
	c.tell.signalled(level, c.event(), SignalInfo{sig, true, err})
}
