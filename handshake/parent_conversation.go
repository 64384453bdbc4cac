package handshake

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"net"
	"slices"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// conversation is the handshake with a child whose hello is good. One goroutine
// runs it, from the hello to the child's answer.
type conversation struct {
	x           *Expected
	ch          *transport.Channel
	hello       hello
	helloBody   []byte
	pairControl net.Conn  // the control connection of a pair, or nil
	peer        *Peer     // from admit on
	specMAC     hash.Hash // the MAC of the spec's frame, as far as the spec; from sendWelcome on
	early       bool      // it ended before SendSpec
}

// checkHello finds the child that a hello comes from, and checks its secret. A
// refusal concerns this connection alone: the real child may still come.
func (l *Listener) checkHello(ch *transport.Channel, pid int, body []byte) (*conversation, error) {
	s, err := open(frame.KindHello, body)
	if err != nil {
		return nil, err
	}
	h, err := decodeHello(s.payload)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	x := l.expected[h.ID]
	l.mu.Unlock()
	if x == nil {
		return nil, unknownPeer(h.ID)
	}
	key := x.unusedSecret()
	if key == nil {
		return nil, unknownPeer(h.ID)
	}
	if err := s.verify(key(), labelHello); err != nil {
		x.refuse(&Error{PhaseAuth, err}, pid)
		return nil, fmt.Errorf("%w: id %s", err, h.ID)
	}
	return &conversation{x: x, ch: ch, hello: h, helloBody: body}, nil
}

func unknownPeer(id string) error { return fmt.Errorf("%w: id %s", ErrUnknownPeer, id) }

// admit accepts the child if its hello comes from the child's process, and uses
// the secret up. It waits for SetPID until ctx ends.
func (c *conversation) admit(ctx context.Context, from origin) error {
	x := c.x
	var child *process
	if x.l.checksProcess(from) {
		var err error
		if child, err = x.awaitProcess(ctx); err != nil {
			if errors.Is(err, ErrNoProcess) {
				x.resolve(nil, &Error{PhaseAuth, err})
			}
			return fmt.Errorf("%w: id %s", err, c.hello.ID)
		}
	}
	if err := x.l.checkProcess(from, child); err != nil {
		x.refuse(&Error{PhaseAuth, err}, from.pid)
		return fmt.Errorf("%w: id %s", err, c.hello.ID)
	}
	if !x.useSecret() {
		return unknownPeer(c.hello.ID)
	}
	c.peer = &Peer{Channel: c.ch, Identity: c.hello.Identity, l: x.l, process: child}
	x.enter(PhaseAuth)
	return nil
}

// run sends the welcome and the spec, waits for the child's answer and sets the
// outcome. It ends with x.ctx, on Cancel or when the Listener is closed.
func (c *conversation) run() {
	x := c.x
	if c.pairControl != nil {
		c.peer.pairControl = newChannel(c.pairControl, nil)
		c.peer.attached = make(chan struct{})
	}
	phase, err := c.sendWelcome()
	if err == nil {
		phase, err = c.readAnswer()
	}
	if err == nil {
		x.enter(PhaseReady)
		if c.peer.pairControl != nil && c.peer.mayAttach() {
			c.peer.attachControl(x.ctx, c.peer.pairControl)
		}
		if x.resolve(c.peer, nil) {
			return
		}
		err = context.Canceled
	}
	c.peer.Abort()
	if x.ctx.Err() != nil {
		err = context.Cause(x.ctx)
	}
	if x.resolve(nil, &Error{phase, err}) && x.ctx.Err() == nil && !c.early {
		x.l.cfg.Logger.Debug("handshake: a child's handshake failed", // WaitForPeer has the error
			"id", c.hello.ID, "name", c.hello.Name, "pid", c.hello.PID,
			"phase", phase, "reason", err)
	}
}

// sendWelcome sends the welcome and, unless the child is a spare, the spec. It
// returns a phase and an error if it fails.
func (c *conversation) sendWelcome() (Phase, error) {
	x, ours := c.x, c.x.l.cfg.versions
	version, ok := ours.common(c.hello.versions)
	if !ok {
		err := &VersionError{Ours: ours, Theirs: c.hello.versions}
		frames(c.ch).Write(x.ctx, err.frame(PhaseAuth))
		c.ch.CloseWith(x.ctx, 1, "")
		return PhaseAuth, err
	}
	key := x.secret()
	w := welcome{version: version, self: self{Identity: x.l.Identity(), nonce: newNonce()}}
	if limit := x.l.cfg.MaxFrameSize; limit != transport.DefaultMaxFrameSize {
		w.limit = limit
	}
	attaches := slices.Contains(c.hello.features, featureControl) && c.pairControl == nil
	c.peer.inspects = slices.Contains(c.hello.features, featureInspect)
	shares := slices.Contains(c.hello.features, featureShare) && frames(c.ch).CanShare()
	ring := shares && x.l.cfg.Ring && slices.Contains(c.hello.features, featureRing)
	w.features = features(attaches, c.peer.inspects, shares, ring)
	share(c.ch, w.features)
	welcomeBody := seal(key, labelWelcome, w.encode(), c.helloBody)
	if attaches {
		c.peer.session, c.peer.attached = newSecret(sessionKey(key, c.helloBody, welcomeBody)),
			make(chan struct{})
		x.l.addSession(c.peer)
	}
	c.specMAC = startMAC(key, labelSpec, c.helloBody, welcomeBody)
	out := []frame.Frame{{Kind: frame.KindWelcome, Body: welcomeBody}}
	spare := x.isSpare()
	if !spare {
		out = append(out, c.specFrame(x.spec))
	}
	frames(c.ch).SetMaxSize(x.l.cfg.MaxFrameSize)
	x.enter(PhaseSpec)
	err := frames(c.ch).Write(x.ctx, out...)
	// a child that is gone may have sent its reason before
	if err != nil && !errors.Is(err, transport.ErrPeerGone) {
		return PhaseSpec, err
	}
	if spare {
		c.wait()
	}
	return "", nil
}

// wait makes the spare available to SendSpec, unless the outcome is set.
func (c *conversation) wait() {
	x := c.x
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.waiting = c
		close(x.welcomed)
	}
}

// specFrame returns the frame of the spec. It must be called once.
func (c *conversation) specFrame(spec []byte) frame.Frame {
	addPart(c.specMAC, spec)
	return frame.Frame{Kind: frame.KindSpec, Body: sealed{spec, c.specMAC.Sum(nil)}.encode()}
}

// readAnswer waits for the child's answer to its spec. It returns a phase and an
// error if the child is not ready.
func (c *conversation) readAnswer() (Phase, error) {
	f, err := frames(c.ch).Read(c.x.ctx)
	c.x.mu.Lock()
	c.early, c.x.waiting = c.x.waiting == c, nil
	c.x.mu.Unlock()
	switch {
	case err != nil:
		return PhaseSpec, err
	case f.Kind == frame.KindFailed:
		err := failedError(f.Body, c.x.l.cfg.versions, PhaseSpec)
		var said *FailedError
		if errors.As(err, &said) && (said.Phase == PhaseAuth || said.Phase == PhaseReady) {
			return said.Phase, err
		}
		return PhaseSpec, err
	case f.Kind != frame.KindReady:
		return PhaseSpec, unexpected(f, frame.KindReady)
	case c.early:
		return PhaseSpec,
			fmt.Errorf("%w: a %s frame before the spec", transport.ErrProtocol, f.Kind)
	}
	var r ready
	if err := decode(frame.KindReady, f.Body, &r); err != nil {
		return PhaseSpec, err
	}
	c.x.mu.Lock()
	c.x.timings = r.timings
	c.peer.value = r.value
	c.x.mu.Unlock()
	return PhaseReady, nil
}
