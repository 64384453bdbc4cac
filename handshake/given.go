package handshake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// served is a child that is expected on a connection which it was given, until its hello has come.
type served struct {
	ch      *transport.Channel
	control net.Conn // or nil
	ahead   ahead
}

// ahead is what was said to a child before its hello.
type ahead struct {
	version uint
	welcome []byte // the frame's body
}

// Serve expects the child on conn, and nowhere else: one end of a pair (socketpair(2)) that this process has made, of which
// the child gets the other end from whoever starts it. It takes conn over, and is called once, at any time until Cancel. It does not
// wait. Nothing has to be dialled then, accepted or queued, and nobody reads what the child says but [Expected.Answer].
//
// The parent speaks ahead: welcome and spec (of a child in reserve the welcome alone) are sent before the child has said anything, so
// that it need not wait for them. They prove that the parent knows the secret and prove nothing of a hello; see JoinConfig.Ahead. Whoever
// could read them has the ticket too. The hello comes, and is looked at, as ever.
//
// The child proves its secret as ever. Which process it is the kernel does not tell, as SO_PEERCRED of a pair is who
// made it (unix(7)), and it does not matter: whoever has the other end was given it. So there is no wait for SetPID either.
// All others who have the other end must close it, once the child has it: then its end is told by the connection's,
// in PhaseConnect as long as nothing came.
//
// With control, which may be nil, one end of another pair, the child has its control connection from the start: the peer
// uses it when the child is ready, nothing is attached, and the child makes its own end of it a channel with PreAuthLimit.
func (x *Expected) Serve(conn, control net.Conn) {
	s := &served{ch: transport.New(conn, transport.Config{Limit: x.l.cfg.Limit}), control: control}
	frames, size := x.makeAhead(&s.ahead)
	l := x.l
	l.mu.Lock()
	x.mu.Lock()
	expected := !l.closed && x.err == nil && frames != nil
	if expected {
		x.conn, x.served = conn, s
		l.reserves[x] = struct{}{}
	}
	x.mu.Unlock()
	l.mu.Unlock()
	switch {
	case !expected:
		s.close()
	case size > aheadRoom:
		l.detach(func() { x.speak(s, frames) })
	default:
		x.speak(s, frames)
	}
}

// aheadRoom is how many bytes a new connection takes without a wait.
const aheadRoom = 2 << 10

// makeAhead makes what is said before the hello, or returns nil when nobody waits for the child any more.
func (x *Expected) makeAhead(a *ahead) (frames []transport.Frame, size int) {
	a.version = x.l.cfg.Versions.Max
	w := x.l.welcome(a.version)
	x.prove(func(key []byte) error {
		a.welcome = seal(key, labelWelcome, w.encode(), nil)
		frames = append(frames, transport.Frame{Kind: transport.KindWelcome, Body: a.welcome})
		if x.welcomed == nil {
			frames = append(frames, specFrame(key, x.spec, nil, a.welcome))
		}
		return nil
	})
	for _, f := range frames {
		size += len(f.Body)
	}
	return frames, size
}

// speak sends what is said before the hello. That the child is gone is no failure yet, as it may have left words to read.
func (x *Expected) speak(s *served, frames []transport.Frame) {
	err := s.ch.WriteFrames(x.ctx, frames...)
	if err != nil && !errors.Is(err, transport.ErrPeerGone) && x.ctx.Err() == nil && x.resolve(nil, &Error{PhaseSpec, err}) {
		s.ch.Abort() // and nobody waits for a hello
	}
}

func (s *served) close() {
	s.ch.Abort()
	if s.control != nil {
		s.control.Close()
	}
}

// leaveServed returns what Serve has made, for whoever ends it or makes a conversation of it, once, or else nil.
func (x *Expected) leaveServed() *served {
	x.l.mu.Lock()
	defer x.l.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.served
	if s != nil {
		x.served = nil
		delete(x.l.reserves, x)
	}
	return s
}

// hear waits for the hello of a child that was given its connection, and lets the child in, or sets the outcome. It
// returns an error when ctx ends before, and may be called again then.
func (x *Expected) hear(ctx context.Context) error {
	x.mu.Lock()
	s := x.served
	x.mu.Unlock()
	if s == nil {
		return nil
	}
	f, err := s.ch.ReadFrame(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return &Error{x.Phase(), contextError(ctx)}
	}
	if x.leaveServed() == nil {
		return nil // Cancel, or the Listener's Close, was faster
	}
	c, phase, err := x.letIn(s, f, err)
	if err == nil {
		c.control, c.ahead = s.control, &s.ahead
		c.finish()
		return nil
	}
	first := x.resolve(nil, &Error{phase, err})
	if phase == PhaseConnect {
		s.close() // nobody is there who would want to know
		return nil
	}
	if s.control != nil {
		s.control.Close()
	}
	if first {
		x.l.logRefusal(s.ch.NetConn(), 0, err)
	}
	if !x.l.detach(func() { turnAway(x.ctx, s.ch) }) {
		s.ch.Abort()
	}
	return nil
}

// detach runs f in a goroutine that Close waits for, unless the Listener is closed.
func (l *Listener) detach(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(f)
	}
	return !l.closed
}

// letIn looks at what was read in place of a hello, and uses the secret up. It returns the phase and the reason in which it failed.
func (x *Expected) letIn(s *served, f transport.Frame, err error) (*conversation, Phase, error) {
	switch {
	case errors.Is(err, transport.ErrPeerGone), errors.Is(err, transport.ErrClosed):
		return nil, PhaseConnect, err
	case err != nil:
		return nil, PhaseHello, err
	}
	x.enter(PhaseHello)
	if f.Kind != transport.KindHello {
		return nil, PhaseHello, fmt.Errorf("%w: a %s frame where hello belongs", transport.ErrProtocol, f.Kind)
	}
	c, err := x.l.checkHello(s.ch, 0, f.Body)
	if err == nil && c.x != x {
		err = fmt.Errorf("%w: id %s", ErrUnknownPeer, c.hello.ID)
	}
	if err == nil {
		err = c.admit(x.ctx, origin{conn: s.ch.NetConn(), accepted: time.Now()})
	}
	if errors.Is(err, transport.ErrProtocol) {
		return c, PhaseHello, err
	}
	return c, PhaseAuth, err
}
