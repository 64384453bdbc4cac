package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
)

// acceptPatience is how long Spawn goes on when the connection of the child that it has started cannot
// be accepted. The child waits in the kernel's queue meanwhile, and most wants of descriptors
// pass. But some do not pass while all wait: many calls of Spawn at once can hold, by their pipes, the
// very descriptors that each of them needs. It is more than the longest pause between two accepts.
const acceptPatience = 2 * time.Second

// acceptError says that connections cannot be accepted, by fault of this process.
type acceptError struct{ err error }

func (e *acceptError) Error() string { return "connections cannot be accepted: " + e.err.Error() }
func (e *acceptError) Unwrap() error { return e.err }

// watchAccept ends a boot that waits for a connection which cannot be accepted. stop ends the watch.
func (b *boot) watchAccept(end context.CancelCauseFunc) (stop func()) {
	ended := make(chan struct{})
	timer := time.AfterFunc(acceptPatience, func() {
		for {
			if err := b.acceptError(); err != nil {
				end(err)
				return
			}
			if awaitClosed(context.Background(), ended, acceptPatience) {
				return
			}
		}
	})
	return func() {
		timer.Stop()
		close(ended)
	}
}

// acceptError returns an [*acceptError] while the child has not been seen and accepts fail, or nil.
func (b *boot) acceptError() error {
	if err := b.s.peers.AcceptErr(); err != nil && !b.connected && b.x.Phase() == handshake.PhaseConnect {
		return &acceptError{explainScarcity(err)}
	}
	return nil
}

// withAcceptError adds to the reason why a boot has ended that it could not go on.
func (b *boot) withAcceptError(cause error) error {
	var stuck *acceptError
	if errors.As(cause, &stuck) {
		return stuck // and not the end of the boot's own context besides
	}
	if err := b.acceptError(); err != nil && cause != ErrDied {
		return fmt.Errorf("%w; %w", cause, err)
	}
	return cause
}
