package forkspawn

import (
	"context"
	"errors"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
)

// ErrDied is the error of a child that ended before it was ready, with nothing better known.
var ErrDied = errors.New("the child ended before it was ready")

// lastWords bounds how long Race, and Child.lastWords, wait, after a process has ended, for what it may have said just
// before. There is nothing to wait for but this program's own goroutines; a busy machine can keep them.
const lastWords = time.Second

// Race waits until the expected peer is ready, its handshake fails, its process has ended, or ctx has,
// and returns the peer or the first of these as the error: the handshake's own (a [*handshake.Error]),
// [ErrDied], or the cause of ctx. It is all that Spawn does to wait, for runtimes that start their
// processes in some other way; gone is closed when the process has ended.
//
// When several are true at once the better news wins: ready, then the peer's own words, then the
// death, then the context. So a child that says ready and dies at the same moment is either a peer, whose
// next receive fails with its exit status, or a death; never a timeout.
//
// The process is not ended and x is not cancelled here.
func Race(ctx context.Context, x *handshake.Expected, gone <-chan struct{}) (*handshake.Peer, error) {
	select {
	case <-x.Done():
	case <-gone:
		words, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		x.Hear(words)
	case <-ctx.Done():
	}
	if isClosed(x.Done()) {
		return x.WaitForPeer(ctx)
	}
	if isClosed(gone) {
		return nil, ErrDied
	}
	return nil, contextError(ctx)
}

// awaitClosed waits until c is closed, but not longer than bound nor than ctx lasts, and reports whether it is.
func awaitClosed(ctx context.Context, c <-chan struct{}, bound time.Duration) bool {
	if isClosed(c) {
		return true
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
	case <-ctx.Done():
	}
	return isClosed(c)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
