package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// Ending is how much force it took to end a child.
type Ending int

// The endings, in the order of rising force.
const (
	AlreadyEnded Ending = iota // the child had ended before Stop was called
	Asked                      // the child ended after the request
	Terminated                 // the child ended after SIGTERM
	Killed                     // the child was killed with SIGKILL
)

// String returns "ended before", "ended as asked", "ended on SIGTERM" or "killed".
func (e Ending) String() string {
	texts := [...]string{"ended before", "ended as asked", "ended on SIGTERM", "killed"}
	if e < 0 || int(e) >= len(texts) {
		return fmt.Sprintf("Ending(%d)", int(e))
	}
	return texts[e]
}

// StopResult is how a child ended.
type StopResult struct {
	Status  ExitStatus
	By      Ending
	Elapsed time.Duration // since Stop was called
}

func (r StopResult) String() string { return fmt.Sprintf("%s: %v", r.By, r.Status) }

// killBound is how long a process may take to end after SIGKILL. A process in
// an uninterruptible sleep can take longer; it is reaped when it ends. Tests set
// killBound.
var killBound = 10 * time.Second

var errUnkillable = osproc.ErrUnkillable

// Stop ends the child and returns how it ended. First it asks the child to stop:
// the child's context ends, also while the child is busy. After Config.StopGrace
// it sends SIGTERM to the child's process group, and after Config.TermGrace
// SIGKILL. When ctx ends, it sends SIGKILL at once. The rest of the child's
// process group is killed with the child.
//
// Stop then closes the channel, and messages not yet received are lost. To
// receive all messages of the child, call [Child.RequestStop], receive until the end,
// and then call Stop. Stop does nothing to a released child.
//
// The error is nil unless the process could not be ended. Stop may be called
// concurrently and again. It runs once, with the first caller's ctx, and all
// calls return the same result.
func (c *Child) Stop(ctx context.Context) (StopResult, error) {
	c.stop.Do(func() {
		defer close(c.stopped)
		c.stopping.Store(true)
		if !c.releasing.end() {
			return
		}
		c.result, c.stopErr = c.runLadder(ctx)
		c.lastWords()
		if c.peer != nil {
			c.peer.Abort() // the other end is closed already
		}
		c.release()
		c.s.remove(c)
		c.report.stopped(c.event(), c.result, c.stopErr)
	})
	return c.result, c.stopErr
}

// RequestStop asks the child to stop and does not wait for its end. The child's
// context ends, also while the child is busy, and its last messages can still be
// received. reason is for people to read. RequestStop returns when the kernel has the
// request, or ctx has ended. If the child has ended, it does nothing. The caller
// must call [Child.Stop] afterwards.
func (c *Child) RequestStop(ctx context.Context, reason string) error {
	if c.isReleased() {
		return c.wasReleased()
	}
	if wait.Closed(c.exited) {
		return nil
	}
	c.report.asked(c.event(), 0)
	if c.peer == nil {
		c.askProgram()
		return nil
	}
	err := c.peer.Cancel(ctx, handshake.Cancel{Reason: reason})
	if err != nil && errors.Is(err, transport.ErrPeerGone) {
		return nil // it ends
	}
	return err
}

// Kill ends the child with SIGKILL, waits until it has ended, and returns the
// result of Stop. A concurrent Stop ends early. Receives and calls under way fail with
// an [*ExitError].
func (c *Child) Kill() (StopResult, error) {
	c.kill()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return c.Stop(ctx)
}

// kill sends SIGKILL, once, also during a Stop. It does not wait.
func (c *Child) kill() {
	if !wait.Closed(c.exited) && c.beginKill() {
		c.stopping.Store(true) // so that this end is not taken for a failure
		c.signalGroup(sigkill)
	}
}

// isKilled reports whether kill has ended the child.
func (c *Child) isKilled() bool {
	return c.killed.Load() && c.status.Signal() == sigkill
}

// runLadder is the stop ladder: ask, SIGTERM, SIGKILL.
func (c *Child) runLadder(ctx context.Context) (StopResult, error) {
	began := time.Now()
	result := func(by Ending) (StopResult, error) {
		if c.isKilled() { // by a concurrent Kill or Shutdown
			by = Killed
		}
		return StopResult{Status: c.status, By: by, Elapsed: time.Since(began)}, nil
	}
	if wait.Closed(c.exited) {
		return result(AlreadyEnded)
	}
	var letting sync.WaitGroup
	defer letting.Wait()
	closing, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.peer != nil {
		letting.Go(func() { c.letGo(closing, time.Millisecond, 10*time.Millisecond) })
	}
	termGrace := c.s.cfg.TermGrace
	if c.peer == nil && c.streams.In == nil {
		termGrace += c.s.cfg.StopGrace // SIGTERM is the request
	} else if c.ask(ctx, c.s.cfg.StopGrace) {
		return result(Asked)
	}
	if ctx.Err() == nil {
		c.terminate()
		if c.awaitStep(ctx, stepTerm, termGrace) {
			return result(Terminated)
		}
	}
	c.kill()
	if c.awaitExit(context.Background(), killBound) {
		return result(Killed)
	}
	return StopResult{By: Killed, Elapsed: time.Since(began)},
		fmt.Errorf("forkspawn: stop %q (pid %d): %w", c.spec.Name, c.PID(), errUnkillable)
}

// ask sends the cancel and reports whether the child has ended within the
// grace. If this process must stop too, the grace is shorter. The cancel
// contains it, so that the child can end its own children within it.
func (c *Child) ask(ctx context.Context, grace time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	now := time.Now()
	until, _ := c.ladderLimit(ctx, stepAsk, now.Add(grace))
	grace = max(0, until.Sub(now))
	c.report.asked(c.event(), grace)
	if c.peer == nil {
		c.askProgram()
		return c.awaitStep(ctx, stepAsk, grace)
	}
	// with 0 nothing would be sent
	asking, cancel := context.WithTimeout(ctx, grace+time.Millisecond)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		// This can block if the child has no control connection and does not
		// read. The grace bounds it.
		c.peer.Cancel(asking,
			handshake.Cancel{Reason: "the parent stops the child",
				Grace: max(grace, time.Millisecond)})
	}()
	ended := c.awaitStep(ctx, stepAsk, grace)
	cancel()
	<-asked
	return ended
}

// ladderStep is a waiting step of the stop ladder.
type ladderStep int

const (
	stepAsk ladderStep = iota
	stepTerm
)

// awaitStep waits until the child has ended or it is time for more force, and
// reports whether the child has ended. It is time when ctx ends or the grace is
// over. Hasten and this process's own parent can shorten the grace.
func (c *Child) awaitStep(ctx context.Context, step ladderStep, grace time.Duration) bool {
	end := time.Now().Add(grace)
	for {
		limit, changes := c.ladderLimit(ctx, step, end)
		timer := time.NewTimer(time.Until(limit))
		select {
		case <-c.exited:
		case <-ctx.Done():
		case <-changes.hastened:
			timer.Stop()
			continue
		case <-changes.asked:
			timer.Stop()
			continue
		case <-timer.C:
			if c.s.heldByDebugger(ctx, c) {
				end = time.Now()
				continue
			}
		}
		timer.Stop()
		return wait.Closed(c.exited)
	}
}

// debuggerPause is the time between two looks whether a debugger still holds a
// child.
const debuggerPause = 500 * time.Millisecond

// heldByDebugger waits a little and returns true if a debugger holds the child,
// Config.WaitForDebugger is set and Hasten was not called.
func (s *Spawner) heldByDebugger(ctx context.Context, c *Child) bool {
	s.mu.Lock()
	hastened, hasten := s.hastened > 0, s.hasten
	s.mu.Unlock()
	if !s.cfg.WaitForDebugger || hastened || !osproc.Traced(c.PID()) {
		return false
	}
	timer := time.NewTimer(debuggerPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.exited:
	case <-hasten:
	case <-ctx.Done():
	}
	return true
}

// ladderChanges has channels that are closed when the limit of a step may have
// changed. A nil channel is never closed.
type ladderChanges struct{ hastened, asked <-chan struct{} }

// ladderLimit returns the time when a step must end if its own grace ends at
// end.
func (c *Child) ladderLimit(
	ctx context.Context, step ladderStep, end time.Time,
) (time.Time, ladderChanges) {
	c.s.mu.Lock()
	hastened, changes := c.s.hastened > int(step), ladderChanges{hastened: c.s.hasten}
	c.s.mu.Unlock()
	if hastened {
		return time.Now(), changes
	}
	parent := parentIn(ctx, c.onBehalfOf).latest() // the second one, because Close has no context
	if parent == nil {
		return end, changes
	}
	// If this process was asked to stop itself, its children must end within
	// a part of its own grace, so that they end before it.
	askedAt, grace, changed := parent.stopRequest()
	changes.asked = changed
	if grace == 0 { // not asked, or without a grace
		return end, changes
	}
	own := askedAt.Add(grace / 2)
	if step == stepTerm {
		own = askedAt.Add(grace * 3 / 4)
	}
	if own.Before(end) {
		end = own
	}
	return end, changes
}

// Hasten shortens all stops of this Spawner's children, those in progress and
// later ones. After the first call they do not wait for Config.StopGrace, but
// send SIGTERM at once. After the second call they do not wait for TermGrace
// either. [Spawner.NotifyContext] calls it on a second Ctrl-C.
func (s *Spawner) Hasten() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hastened++
	close(s.hasten)
	s.hasten = make(chan struct{})
}

// terminate sends SIGTERM to the child's process group.
func (c *Child) terminate() {
	c.signalGroup(syscall.SIGTERM)
	c.signalGroup(sigcont) // a stopped process does not act on SIGTERM
}

// signalGroup sends a signal to the child's process group and reports it.
func (c *Child) signalGroup(sig syscall.Signal) {
	if c.isReleased() {
		return
	}
	err := c.proc.SignalGroup(sig)
	level := slog.LevelWarn
	if sig == sigcont || errors.Is(err, os.ErrProcessDone) {
		level = slog.LevelDebug
	}
	c.report.signalled(level, c.event(), sig, true, err)
}
