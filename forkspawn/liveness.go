package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// ErrUnresponsive is the cause in the [*ExitError] of a child if its group has killed
// it for its silence; see GroupConfig.Liveness.
var ErrUnresponsive = errors.New("it did not answer")

// watchLiveness kills the child if it does not answer. The returned function ends
// that, and waits for the end.
func (g *Group) watchLiveness(c *Child) (end func()) {
	if g.cfg.Liveness == 0 || c.peer == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(g.ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		if c.fallsSilent(ctx, g.cfg.Liveness) {
			c.unanswered.Store(int64(g.cfg.Liveness))
			c.signalGroup(sigkill)
		}
	})
	return func() {
		cancel()
		watch.Wait()
	}
}

// fallsSilent waits until the child does not answer any more, and then returns true.
// It returns false when ctx or the child ends.
//
// Two pings in a row must stay without an answer. The first may be one that this
// process has slept through.
func (c *Child) fallsSilent(ctx context.Context, bound time.Duration) bool {
	for silent := 0; silent < 2; {
		ping, cancel := context.WithTimeout(ctx, bound/2)
		switch {
		case !c.peer.Internal(access.Key{}).Silent(ping):
			wait.For(ping, c.exited, bound) // until the time for the next ping
			silent = 0
		case c.s.heldByDebugger(ctx, c):
			silent = 0
		default:
			silent++
		}
		cancel()
		if ctx.Err() != nil || wait.Closed(c.exited) {
			return false
		}
	}
	return true
}

// silence returns the reason if the child was killed for its silence, or nil.
func (c *Child) silence() error {
	if bound := time.Duration(c.unanswered.Load()); bound > 0 {
		return fmt.Errorf("%w for %v", ErrUnresponsive, bound)
	}
	return nil
}
