package handshake

import (
	"context"
	"errors"
	"maps"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
)

// Internal returns methods for this module only. See package internal/access.
func (x *Expected) Internal(access.Key) internals { return internals{x} }

// internals are the methods of an Expected for package forkspawn.
type internals struct{ x *Expected }

// HoldSpec makes the child a spare: after its welcome the child waits for
// SendSpec, and Expectation.Spec is not used. The caller calls HoldSpec before
// it starts the child.
func (i internals) HoldSpec() {
	i.x.mu.Lock()
	defer i.x.mu.Unlock()
	i.x.welcomed = make(chan struct{})
}

// Welcomed returns a channel. It is closed when a spare waits for its spec, and
// nil for any other child.
func (i internals) Welcomed() <-chan struct{} {
	i.x.mu.Lock()
	defer i.x.mu.Unlock()
	return i.x.welcomed
}

// Waiting returns the Peer of a spare that waits for its spec, or else nil:
// before its welcome, after SendSpec, or when it has failed. The caller may
// call only Cancel, Close and Abort of the Peer. A spare ends on Cancel.
// WaitForPeer returns the same Peer when the spare is ready.
func (i internals) Waiting() *Peer {
	i.x.mu.Lock()
	defer i.x.mu.Unlock()
	if i.x.waiting == nil {
		return nil
	}
	return i.x.waiting.peer
}

// SendSpec sends the spec to a waiting spare. The error matches
// transport.ErrPeerGone if the spare is gone. If ctx ends, the spare may have
// received a part of the spec and cannot be used any more.
func (i internals) SendSpec(ctx context.Context, spec []byte) error {
	x := i.x
	x.mu.Lock()
	c := x.waiting
	x.waiting = nil
	if c != nil {
		x.since[PhaseSpec] = time.Now()
	}
	x.mu.Unlock()
	if c == nil {
		return &Error{PhaseSpec, errNotWaiting}
	}
	if err := frames(c.ch).Write(ctx, c.specFrame(spec)); err != nil {
		return &Error{PhaseSpec, err}
	}
	return nil
}

var errNotWaiting = errors.New("the child does not wait for its spec")

// UsePair makes conn the child's only connection. conn is one end of a
// socketpair(2) of this process; the child gets the other end when it is
// started. UsePair takes conn over and returns at once. It may be called once,
// at any time before Cancel.
//
// The child proves its secret as usual, but the Listener does not check its
// process or wait for SetPID. SO_PEERCRED of a pair reports its creator
// (unix(7)), and a process can have the other end only if it was passed on.
// Only the child may keep the other end open, because the end of the connection
// means the end of the child.
//
// control may be nil. Otherwise it is one end of another pair, and is the
// child's control connection from the start. The child makes its end a channel
// with the limit access.PreAuthLimit, and attaches nothing.
func (i internals) UsePair(conn, control net.Conn) {
	x := i.x
	x.mu.Lock()
	x.paired = true
	x.mu.Unlock()
	if !x.l.run(func() { x.handlePair(conn, control) }) {
		conn.Close()
		if control != nil {
			control.Close()
		}
	}
}

// Refused returns why the last hello in this child's name was refused, or nil.
func (i internals) Refused() error {
	i.x.mu.Lock()
	defer i.x.mu.Unlock()
	return i.x.refused
}

// Since returns the start time of each phase of the child so far. PhaseConnect
// started with Expect, and PhaseSpec of a spare with SendSpec.
func (i internals) Since() map[Phase]time.Time {
	i.x.mu.Lock()
	defer i.x.mu.Unlock()
	return maps.Clone(i.x.since)
}

// Timings returns the timings of the child's ready.
func (i internals) Timings() access.Timings {
	i.x.mu.Lock()
	defer i.x.mu.Unlock()
	return i.x.timings
}

// AcceptErr returns why the Listener cannot accept connections at this moment,
// or nil.
func (i internals) AcceptErr() error {
	i.x.l.mu.Lock()
	defer i.x.l.mu.Unlock()
	return i.x.l.acceptErr
}

// AwaitWords waits until this process has read everything from the child, or
// until ctx ends. The caller calls it after the child's process has ended,
// because the child may have sent its reason just before. Afterwards
// Done is closed if the child has sent anything that decides the result.
func (i internals) AwaitWords(ctx context.Context) { i.x.awaitWords(ctx) }

// LastWords returns the child's goodbye on its control connection. ok is false
// if the child sent none, or if ctx ends. The caller calls LastWords after the
// child's process has ended.
func (i internals) LastWords(ctx context.Context) (bye frame.Goodbye, ok bool) {
	i.x.mu.Lock()
	peer := i.x.peer
	i.x.mu.Unlock()
	if peer == nil {
		return bye, false
	}
	return peer.lastWords(ctx)
}
