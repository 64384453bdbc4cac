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

// serve speaks with whoever has connected, until it is a peer or is refused. ctx ends when the connection is
// dropped.
func (l *Listener) serve(ctx context.Context, conn net.Conn, pending *pending) {
	defer pending.drop(nil)
	defer l.removePending(pending)
	from, err := l.origin(pending)
	pid := from.pid
	l.note(pid, nil)
	close(pending.noted)
	if err != nil {
		l.logRefusal(conn, pid, err)
		l.note(pid, &Error{PhaseHello, err})
		conn.Close()
		return
	}
	l.setPendingPID(pending, pid)
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.HelloTimeout, errHelloTimeout)
	defer cancel()
	if err := transport.Secure(ctx, conn); err != nil {
		if l.ctx.Err() == nil {
			l.logRefusal(conn, pid, err)
			l.note(pid, &Error{PhaseHello, err})
		}
		return
	}
	ch := transport.New(conn, transport.Config{Limit: PreAuthLimit})

	f, err := ch.ReadFrame(ctx)
	if err == nil {
		switch f.Kind {
		case transport.KindHello:
			var c *conversation
			if c, err = l.checkHello(ch, pid, slices.Clone(f.Body)); err == nil {
				l.setPendingProved(pending)
				if err = c.admit(ctx, from); err == nil {
					l.removePending(pending)
					c.finish()
					return
				}
			}
		case transport.KindAttach:
			if err = l.acceptAttach(ctx, ch, from, f.Body); err == nil {
				return
			}
		default:
			err = fmt.Errorf("%w: a %s frame where hello belongs", transport.ErrProtocol, f.Kind)
		}
	}
	if l.ctx.Err() == nil {
		l.logRefusal(conn, pid, err)
		switch {
		case f.Kind == transport.KindAttach: // no part of the start
		case errors.Is(err, ErrBadMAC), errors.Is(err, ErrForeignProcess), errors.Is(err, ErrNoProcess):
			// The child in whose name it came has been told.
		case errors.Is(err, ErrUnknownPeer):
			l.note(pid, &Error{PhaseAuth, err})
		default:
			l.note(pid, &Error{PhaseHello, err})
		}
	}
	turnAway(ctx, ch)
}

var errHelloTimeout = errors.New("no hello in time")

// farewell bounds what is spent on telling somebody why, when there is no other bound.
const farewell = time.Second

// refusal is all that somebody who is not accepted is told: nothing that would help a stranger to guess.
func refusal(phase Phase) transport.Frame {
	return FailedError{phase, CodeRefused, "not accepted"}.frame(nil)
}

// turnAway tells whoever has connected that it is not accepted, and closes. A child must hear so much, also when its time is over: it would take
// the mere end of its control connection for its parent's.
func turnAway(ctx context.Context, ch *transport.Channel) {
	refusal := refusal(PhaseAuth)
	if ctx.Err() != nil {
		ctx, cancel := context.WithTimeout(context.Background(), farewell)
		defer cancel()
		ch.WriteFrames(ctx, refusal)
		ch.Abort() // without a wait for its arrival: there may be many
		return
	}
	ch.WriteFrames(ctx, refusal)
	if floods(ch.NetConn()) {
		ch.Abort()
		return
	}
	ch.CloseWith(ctx, 1, "")
}

// note tells the expected child whose process has connected of that, or of why the connection was refused,
// where the kernel tells the process. A child of which SetPID has not said yet which process it is hears of all.
func (l *Listener) note(pid int, refused error) {
	if pid < 1 {
		return
	}
	l.mu.Lock()
	x := l.byPID[pid]
	if x == nil {
		for _, other := range l.expected {
			other.noteEarly(pid, refused)
		}
	}
	l.mu.Unlock()
	switch {
	case x == nil:
	case refused == nil:
		x.enter(PhaseHello)
	default:
		x.refuse(refused, pid)
	}
}

// conversation is a child whose hello was found good.
type conversation struct {
	l       *Listener
	x       *Expected
	ch      *transport.Channel
	hello   hello
	body    []byte   // of the hello frame
	key     *Secret  // from when it is let in until the welcome is made, then wiped
	process *process // from when it is let in; nil when it does not matter
	control net.Conn // the control connection, where it is there from the start; see Expected.Serve
	ahead   *ahead   // what was said before the hello, else nil

	proof hmacSHA256 // of the spec, started; from the welcome until the spec is made, then forgotten
}

// checkHello finds the child that a hello comes from, as far as its secret tells. A refusal is the connection's alone: others, and
// the real child, are not disturbed.
func (l *Listener) checkHello(ch *transport.Channel, pid int, body []byte) (*conversation, error) {
	s, err := open(transport.KindHello, body)
	if err != nil {
		return nil, err
	}
	var h hello
	if err := decode(transport.KindHello, s.Payload, &h); err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	x := l.expected[h.ID]
	l.mu.Unlock()
	if x == nil {
		return nil, fmt.Errorf("%w: id %s", ErrUnknownPeer, h.ID)
	}
	if err := x.prove(func(key []byte) error { return s.verify(key, labelHello) }); err != nil {
		if errors.Is(err, ErrBadMAC) {
			x.refuse(&Error{PhaseAuth, err}, pid)
		}
		return nil, fmt.Errorf("%w: id %s", err, h.ID)
	}
	return &conversation{l: l, x: x, ch: ch, hello: h, body: body}, nil
}

// admit lets in a child whose hello was found good, if it comes from the child's process, and uses the secret up. Only what it
// knows of the child is lost otherwise. ctx bounds the wait until it is known which process that is.
func (c *conversation) admit(ctx context.Context, from origin) error {
	var err error
	if c.l.tellsProcess(from) {
		c.process, err = c.x.awaitProcess(ctx)
	}
	switch {
	case errors.Is(err, ErrNoProcess):
		c.x.resolve(nil, &Error{PhaseAuth, err})
	case err == nil:
		if err = c.l.checkProcess(from, c.process); err != nil {
			c.x.refuse(&Error{PhaseAuth, err}, from.pid)
		} else if c.key = c.x.take(); c.key == nil {
			err = ErrUnknownPeer
		}
	}
	if err != nil {
		return fmt.Errorf("%w: id %s", err, c.hello.ID)
	}
	c.x.enter(PhaseAuth)
	c.x.accepted(from.conn)
	return nil
}

// prove checks a proof with the secret. The lock is held meanwhile, so that nobody wipes it; the proof is of 64 KiB
// at most.
func (x *Expected) prove(check func(key []byte) error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.secret == nil {
		return ErrUnknownPeer
	}
	return check(x.secret[:])
}

// take takes the secret, for its taker to wipe: the next hello in this child's name is an unknown one. It returns nil when
// another hello was faster, or nobody waits for the child any more.
func (x *Expected) take() *Secret {
	x.l.mu.Lock()
	defer x.l.mu.Unlock()
	if x.l.expected[x.id] != x {
		return nil
	}
	delete(x.l.expected, x.id)
	x.mu.Lock()
	defer x.mu.Unlock()
	key := x.secret
	x.secret = nil
	return key
}

// finish sends welcome and spec and waits for the child's answer. Its only bounds are those of
// whoever waits for the child (Expected.Cancel) and the Listener's end.
func (c *conversation) finish() {
	phase, err := PhaseAuth, error(nil)
	peer := &Peer{
		Channel:  c.ch,
		Identity: Identity{c.hello.ID, c.hello.Name, c.hello.PID},
		l:        c.l,
		process:  c.process,
	}
	if c.control != nil {
		peer.given, peer.attach = transport.New(c.control, transport.Config{Limit: PreAuthLimit}), make(chan struct{})
	}
	if phase, err = c.welcome(peer); err == nil && (c.x.welcomed != nil || c.ahead != nil) {
		c.x.keep(c, peer) // until Give, or Answer
		return
	}
	if err == nil {
		phase, err = c.answer(c.x.ctx, peer)
	}
	c.end(peer, phase, err)
}

// end sets the outcome of the conversation, which is err or the peer that is ready.
func (c *conversation) end(peer *Peer, phase Phase, err error) {
	c.key.wipe()
	c.proof.forget()
	if err == nil {
		c.x.enter(PhaseReady)
		if peer.given != nil {
			peer.attachControl(c.x.ctx, peer.given)
		}
		if c.x.resolve(peer, nil) {
			return
		}
		err = context.Canceled
	}
	peer.Abort()
	if c.x.resolve(nil, &Error{phase, err}) && c.x.ctx.Err() == nil {
		c.l.log.Warn("handshake: a child's handshake failed", "id", c.hello.ID, "name", c.hello.Name, "pid", c.hello.PID, "phase", phase, "reason", err)
	}
}

// welcome sends the welcome and, unless the child is in reserve, the spec. It returns the phase and the reason in which it failed.
func (c *conversation) welcome(peer *Peer) (Phase, error) {
	ctx, ours := c.x.ctx, c.l.cfg.Versions
	if c.ahead != nil {
		ours = Range{Min: c.ahead.version, Max: c.ahead.version}
	}
	version, ok := ours.common(c.hello.Versions)
	if !ok {
		verr := &VersionError{Ours: ours, Theirs: c.hello.Versions}
		c.ch.WriteFrames(ctx, verr.said(PhaseAuth))
		c.ch.CloseWith(ctx, 1, "")
		return PhaseAuth, verr
	}
	peer.Version = version
	if c.ahead != nil {
		if c.x.welcomed != nil { // else the spec is made
			c.proof = startMAC(c.key[:], labelSpec, nil, c.ahead.welcome)
		}
		c.key.wipe()
		c.x.enter(PhaseSpec)
		return "", nil
	}
	w := c.l.welcome(version)
	if slices.Contains(c.hello.Features, FeatureControl) && c.control == nil {
		w.Features = []string{FeatureControl}
	}
	key := c.key[:]
	welcomeBody := seal(key, labelWelcome, w.encode(), c.body)
	if w.Features != nil {
		peer.session, peer.attach = sessionKey(key, c.body, welcomeBody), make(chan struct{})
		c.l.addSession(peer)
	}
	frames := []transport.Frame{{Kind: transport.KindWelcome, Body: welcomeBody}}
	c.proof = startMAC(key, labelSpec, c.body, welcomeBody)
	c.key.wipe()
	if c.x.welcomed == nil {
		frames = append(frames, c.spec(c.x.spec))
	}
	c.ch.SetLimit(c.l.cfg.Limit)
	c.x.enter(PhaseSpec)
	err := c.ch.WriteFrames(ctx, frames...)
	if errors.Is(err, transport.ErrPeerGone) {
		return "", nil // it may have left its last words to read
	}
	return PhaseSpec, err
}

// spec makes the frame with the orders, once.
func (c *conversation) spec(orders []byte) transport.Frame {
	defer c.proof.forget()
	c.proof.add(orders)
	return transport.Frame{Kind: transport.KindSpec, Body: sealed{orders, c.proof.sum()}.encode()}
}

// specFrame makes the frame with the orders of a conversation that has not begun.
func specFrame(key, orders, helloBody, welcomeBody []byte) transport.Frame {
	return transport.Frame{Kind: transport.KindSpec, Body: seal(key, labelSpec, orders, helloBody, welcomeBody)}
}

// welcome is what this process says of itself to a child.
func (l *Listener) welcome(version uint) welcome {
	return welcome{Version: version, ID: l.self.ID, Name: l.self.Name, PID: l.self.PID, Nonce: newNonce()}
}

// answer waits for the child's answer to its spec. It returns the phase and the reason in which the conversation failed.
func (c *conversation) answer(ctx context.Context, peer *Peer) (Phase, error) {
	f, err := c.ch.ReadFrame(ctx)
	if err != nil {
		return PhaseSpec, err
	}
	switch f.Kind {
	case transport.KindReady:
		r, err := decodeReady(f.Body)
		if err != nil {
			return PhaseSpec, err
		}
		peer.Timings = r.Timings
		return PhaseReady, nil
	case transport.KindFailed:
		err := failedError(f.Body, c.l.cfg.Versions, PhaseSpec)
		phase := PhaseSpec
		var said *FailedError
		if errors.As(err, &said) && (said.Phase == PhaseAuth || said.Phase == PhaseReady) {
			phase = said.Phase
		}
		return phase, err
	}
	return PhaseSpec, fmt.Errorf("%w: a %s frame where ready belongs", transport.ErrProtocol, f.Kind)
}

func (l *Listener) addSession(p *Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[p.ID] = p
}

func (l *Listener) forgetSession(p *Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions[p.ID] == p {
		delete(l.sessions, p.ID)
	}
}

// acceptAttach makes ch the control connection of the child that it proves to come from.
func (l *Listener) acceptAttach(ctx context.Context, ch *transport.Channel, from origin, body []byte) error {
	s, err := open(transport.KindAttach, body)
	if err != nil {
		return err
	}
	a, err := decodeAttach(s.Payload)
	if err != nil {
		return err
	}
	l.mu.Lock()
	p := l.sessions[a.ID]
	l.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%w: control connection for id %s", ErrUnknownPeer, a.ID)
	}
	if err := p.prove(func(key []byte) error { return s.verify(key, labelAttach) }); err != nil {
		return err
	}
	if err := l.checkProcess(from, p.process); err != nil {
		return err
	}
	return p.attachControl(ctx, ch)
}
