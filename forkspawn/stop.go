package forkspawn

import (
	"context"
	"errors"
	"fmt"
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
const killBound = 10 * time.Second

var errUnkillable = fmt.Errorf("alive %v after SIGKILL", killBound)

// Stop ends the child and returns how it ended and what it took: it is asked to stop (its context ends,
// also while it is busy), then after Config.StopGrace its process group gets SIGTERM, then after
// Config.TermGrace SIGKILL. When ctx ends it is killed at once. What the child has started and left
// behind in its process group is killed with it.
//
// The channel is closed then. Stop may be called again, and concurrently: it runs once, with the first
// caller's ctx, and all get the same result. The error is nil unless the process could not be ended.
func (c *Child) Stop(ctx context.Context) (StopResult, error) {
	c.stop.Do(func() {
		defer close(c.stopped)
		c.result, c.stopErr = c.runLadder(ctx)
		c.peer.Abort() // there is nobody at the other end
		c.s.remove(c)
	})
	return c.result, c.stopErr
}

// Kill ends the child with SIGKILL, at once, and returns when it has ended. What it returns is what Stop
// does. A Stop under way is cut short.
func (c *Child) Kill() (StopResult, error) {
	c.proc.Signal(sigkill, true)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return c.Stop(ctx)
}

func (c *Child) runLadder(ctx context.Context) (StopResult, error) {
	began := time.Now()
	result := func(by Ending) (StopResult, error) {
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
		if c.awaitGoneOr(ctx, cfg.TermGrace) {
			return result(EndedTerminated)
		}
	}
	c.signalGroup(sigkill)
	if c.awaitGone(killBound) {
		return result(EndedKilled)
	}
	return StopResult{By: EndedKilled, Elapsed: time.Since(began)},
		fmt.Errorf("forkspawn: stop %q (pid %d): %w", c.spec.Name, c.PID(), errUnkillable)
}

// ask sends the cancel and reports whether the child has ended within the grace.
func (c *Child) ask(ctx context.Context, grace time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	asking, cancel := context.WithTimeout(ctx, grace)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		// It can block when the child has no control connection and does not read. The grace bounds it.
		c.peer.Cancel(asking, transport.Cancel{Reason: "the parent stops the child", Grace: grace})
	}()
	gone := c.awaitGoneOr(ctx, grace)
	cancel()
	<-asked
	return gone
}

func (c *Child) signalGroup(sig syscall.Signal) {
	if err := c.proc.Signal(sig, true); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.s.cfg.Logger.Warn("forkspawn: signal failed", "name", c.spec.Name, "pid", c.PID(), "signal", sig.String(), "error", err)
	}
}
