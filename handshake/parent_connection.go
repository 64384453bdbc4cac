package handshake

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/transport"
)

var errHelloTimeout = errors.New("no hello in time")

// farewellBound bounds a refusal if nothing else does.
const farewellBound = time.Second

// handle serves one connection until a child has answered on it, or until it is
// refused. ctx ends when the connection is dropped.
func (l *Listener) handle(ctx context.Context, p *pending) {
	defer p.drop(nil)
	defer l.removePending(p)
	from, err := l.origin(p)
	l.noteProcess(from.pid, nil)
	if err != nil {
		l.logRefusal(p.conn, from.pid, err)
		l.noteProcess(from.pid, &Error{PhaseHello, err})
		p.conn.Close()
		return
	}
	l.setPendingPID(p, from.pid)
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.HelloTimeout, errHelloTimeout)
	defer cancel()
	if err := network.Secure(ctx, p.conn); err != nil {
		if l.ctx.Err() == nil {
			l.logRefusal(p.conn, from.pid, err)
			l.noteProcess(from.pid, &Error{PhaseHello, err})
		}
		return
	}
	ch := newChannel(p.conn, nil)
	f, err := frames(ch).Read(ctx)
	switch {
	case err != nil:
	case f.Kind == frame.KindHello:
		var c *conversation
		if c, err = l.checkHello(ch, from.pid, slices.Clone(f.Body)); err == nil {
			l.setPendingProved(p)
			if err = c.admit(ctx, from); err == nil {
				l.removePending(p)
				c.run()
				return
			}
		}
	case f.Kind == frame.KindAttach:
		if err = l.acceptAttach(ctx, ch, from, f.Body); err == nil {
			return
		}
	default:
		err = unexpected(f, frame.KindHello)
	}
	if l.ctx.Err() == nil {
		l.logRefusal(p.conn, from.pid, err)
		if f.Kind != frame.KindAttach { // a refused attach does not affect the start
			l.noteRefusal(from.pid, err)
		}
	}
	turnAway(ctx, ch)
}

// noteRefusal notes for the child whose process has connected why it was
// refused, unless checkHello or admit has done so.
func (l *Listener) noteRefusal(pid int, err error) {
	switch {
	case errors.Is(err, ErrBadMAC), errors.Is(err, ErrForeignProcess), errors.Is(err, ErrNoProcess):
	case errors.Is(err, ErrUnknownPeer):
		l.noteProcess(pid, &Error{PhaseAuth, err})
	default:
		l.noteProcess(pid, &Error{PhaseHello, err})
	}
}

// turnAway refuses a client and closes its connection. It sends the refusal also
// after HelloTimeout, because a child would take the mere end of its control
// connection for the end of its parent.
func turnAway(ctx context.Context, ch *transport.Channel) {
	if ctx.Err() != nil {
		ctx, cancel := context.WithTimeout(context.Background(), farewellBound)
		defer cancel()
		frames(ch).Write(ctx, refusal(PhaseAuth))
		ch.Abort() // with no wait for its arrival, because there may be many
		return
	}
	frames(ch).Write(ctx, refusal(PhaseAuth))
	if floods(ch.NetConn()) {
		ch.Abort()
		return
	}
	ch.CloseWith(ctx, 1, "")
}

// handlePair serves the pair that a child was given as its connection.
func (x *Expected) handlePair(conn, control net.Conn) {
	ch := newChannel(conn, nil)
	c, phase, err := x.readPairHello(ch)
	if err == nil {
		c.pairControl = control
		c.run()
		return
	}
	if control != nil {
		control.Close()
	}
	first := x.resolve(nil, &Error{phase, err})
	if phase == PhaseConnect || x.ctx.Err() != nil { // nobody would read a refusal
		ch.Abort()
		return
	}
	if first {
		x.l.logRefusal(conn, 0, err)
	}
	turnAway(x.ctx, ch)
}

// readPairHello returns a phase and an error if the hello is refused.
func (x *Expected) readPairHello(ch *transport.Channel) (*conversation, Phase, error) {
	f, err := frames(ch).Read(x.ctx)
	switch {
	case err != nil && x.ctx.Err() != nil:
		return nil, x.Phase(), context.Cause(x.ctx)
	case errors.Is(err, transport.ErrPeerGone):
		return nil, PhaseConnect, err
	case err != nil:
		return nil, PhaseHello, err
	}
	x.enter(PhaseHello)
	if f.Kind != frame.KindHello {
		return nil, PhaseHello, unexpected(f, frame.KindHello)
	}
	c, err := x.l.checkHello(ch, 0, slices.Clone(f.Body))
	if err == nil && c.x != x {
		err = unknownPeer(c.hello.ID)
	}
	if err == nil {
		err = c.admit(x.ctx, origin{})
	}
	if errors.Is(err, transport.ErrProtocol) {
		return nil, PhaseHello, err
	}
	return c, PhaseAuth, err
}
