package handshake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// Serve expects the child on conn, and nowhere else: one end of a pair (socketpair(2)) that this process has made, of which
// the child gets the other end from whoever starts it. It takes conn over, and is called once, at any time until Cancel. Nothing
// has to be dialled then, accepted or queued.
//
// The child proves its secret as ever. Which process it is the kernel does not tell, as SO_PEERCRED of a pair is who
// made it (unix(7)), and it does not matter: whoever has the other end was given it. So there is no wait for SetPID either.
// All others who have the other end must close it, once the child has it: then its end is told by the connection's,
// in PhaseConnect as long as nothing came.
//
// With control, which may be nil, one end of another pair, the child has its control connection from the start: the peer
// uses it when the child is ready, nothing is attached, and the child makes its own end of it a channel with PreAuthLimit.
func (x *Expected) Serve(conn, control net.Conn) {
	l := x.l
	given := make(chan struct{})
	x.mu.Lock()
	x.conn, x.given = conn, given
	x.mu.Unlock()
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.wg.Add(1)
	}
	l.mu.Unlock()
	if closed { // and so is x
		closeGiven(conn, control)
		close(given)
		return
	}
	go func() {
		defer l.wg.Done()
		x.serve(conn, control, given)
	}()
}

func closeGiven(conn, control net.Conn) {
	conn.Close()
	if control != nil {
		control.Close()
	}
}

// serve makes the handshake over a connection that was given. given is closed when the hello was looked at.
func (x *Expected) serve(conn, control net.Conn, given chan struct{}) {
	ch := transport.New(conn, transport.Config{Limit: PreAuthLimit})
	c, phase, err := x.hear(x.ctx, ch)
	if err == nil {
		close(given)
		c.control = control
		c.finish()
		return
	}
	first := x.resolve(nil, &Error{phase, err})
	close(given)
	if control != nil {
		control.Close()
	}
	if phase == PhaseConnect {
		ch.Abort() // nobody is there who would want to know
		return
	}
	if first {
		x.l.logRefusal(conn, 0, err)
	}
	turnAway(x.ctx, ch)
}

// hear waits for the child's hello, looks at it, and uses the secret up. It returns the phase and the reason in which it failed.
func (x *Expected) hear(ctx context.Context, ch *transport.Channel) (*conversation, Phase, error) {
	f, err := ch.ReadFrame(ctx)
	switch {
	case errors.Is(err, transport.ErrPeerGone), ctx.Err() != nil:
		return nil, PhaseConnect, err
	case err != nil:
		return nil, PhaseHello, err
	}
	x.enter(PhaseHello)
	if f.Kind != transport.KindHello {
		return nil, PhaseHello, fmt.Errorf("%w: a %s frame where hello belongs", transport.ErrProtocol, f.Kind)
	}
	c, err := x.l.checkHello(ch, 0, slices.Clone(f.Body))
	if err == nil && c.x != x {
		err = fmt.Errorf("%w: id %s", ErrUnknownPeer, c.hello.ID)
	}
	if err == nil {
		err = c.admit(ctx, origin{conn: ch.NetConn(), accepted: time.Now()})
	}
	if errors.Is(err, transport.ErrProtocol) {
		return c, PhaseHello, err
	}
	return c, PhaseAuth, err
}
