package handshake

import (
	"context"
	"errors"
	"time"
)

// reserve is a child that was welcomed and has not answered a spec. Nobody reads from it but Answer.
type reserve struct {
	c     *conversation
	peer  *Peer
	given bool                       // the spec was sent
	input func() (there, known bool) // on its connection
}

// Welcomed is closed when a child of Expectation.Reserve has its welcome and waits for its spec, as long as it takes. It
// is nil for any other.
func (x *Expected) Welcomed() <-chan struct{} { return x.welcomed }

// Reserved returns the child that was welcomed and has not answered a spec, or nil. Only Cancel, Close and
// Abort of it may be used: on Cancel a child without a spec ends, as it has nothing to do. It is the Peer that WaitForPeer returns
// in the end.
func (x *Expected) Reserved() *Peer {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.reserve == nil {
		return nil
	}
	return x.reserve.peer
}

// Waits tells whether a child waits for its spec, as far as the kernel tells: its connection has not ended, and it has
// said nothing, which it should not.
func (x *Expected) Waits() bool {
	x.mu.Lock()
	r := x.reserve
	waits := r != nil && !r.given
	x.mu.Unlock()
	if !waits {
		return false
	}
	said, known := r.input()
	return !known || !said
}

// Give sends the spec to a child that waits for it, once. Answer must follow. For a child that is gone the error matches
// transport.ErrPeerGone. When ctx ends the child may have a part of its spec, and cannot be given another.
func (x *Expected) Give(ctx context.Context, spec []byte) error {
	x.mu.Lock()
	r := x.reserve
	if r == nil || r.given {
		x.mu.Unlock()
		return errors.New("handshake: Give: the child has its spec, or has not been welcomed")
	}
	r.given = true
	x.since[PhaseSpec] = time.Now()
	x.mu.Unlock()
	if err := r.c.ch.WriteFrames(ctx, r.c.spec(spec)); err != nil {
		return &Error{PhaseSpec, err}
	}
	return nil
}

// Answer waits for what a child says to the spec that Give has sent, in the caller's own goroutine. With that it is known what
// WaitForPeer returns. Of a child that [Expected.Serve] expects it waits for all that it says, or, of one in reserve, until it waits for
// its spec. It may be called again when ctx has ended before, and returns its error then; no two calls at the same
// time.
func (x *Expected) Answer(ctx context.Context) error {
	if err := x.hear(ctx); err != nil {
		return err
	}
	x.mu.Lock()
	r := x.reserve
	x.mu.Unlock()
	if r == nil || !r.given {
		return nil
	}
	phase, err := r.c.answer(ctx, r.peer)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return &Error{phase, contextError(ctx)}
	}
	if x.leaveReserve() != nil {
		r.c.end(r.peer, phase, err)
	}
	return nil
}

// Unread tells whether there may be something to read of what the child has said, its connection's end among it.
func (x *Expected) Unread() bool {
	x.mu.Lock()
	conn := x.conn
	x.mu.Unlock()
	return conn != nil && unread(conn)
}

// keep notes that the child has its welcome. From then on nobody reads from it until Answer: in reserve it has nothing to say.
func (x *Expected) keep(c *conversation, peer *Peer) {
	x.l.mu.Lock()
	x.mu.Lock()
	kept := !x.l.closed && x.err == nil
	if kept {
		x.reserve = &reserve{c: c, peer: peer, given: x.welcomed == nil, input: looker(x.conn)}
		x.l.reserves[x] = struct{}{}
		if x.welcomed != nil {
			close(x.welcomed)
		}
	}
	x.mu.Unlock()
	x.l.mu.Unlock()
	if !kept {
		c.end(peer, PhaseSpec, ErrClosed)
	}
}

// leaveReserve returns the reserve for whoever ends it, once, or else nil.
func (x *Expected) leaveReserve() *reserve {
	x.l.mu.Lock()
	defer x.l.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.reserve
	if r != nil {
		x.reserve = nil
		delete(x.l.reserves, x)
	}
	return r
}

// dismiss ends a child that was welcomed and has not answered, or is expected where it was given its connection.
func (x *Expected) dismiss(err error) {
	if s := x.leaveServed(); s != nil {
		x.resolve(nil, err)
		s.close()
	}
	if r := x.leaveReserve(); r != nil {
		if !r.given { // else Give has it
			r.c.proof.forget()
		}
		r.peer.Abort()
		x.resolve(nil, err)
	}
}
