package handshake

import (
	"context"
	"fmt"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// A session is a child after its welcome. It may attach a control connection.

func (l *Listener) addSession(p *Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[p.ID] = p
}

func (l *Listener) removeSession(p *Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions[p.ID] == p {
		delete(l.sessions, p.ID)
	}
}

// acceptAttach makes ch the control connection of a child, if its proof is right.
func (l *Listener) acceptAttach(
	ctx context.Context, ch *transport.Channel, from origin, body []byte,
) error {
	s, err := open(frame.KindAttach, body)
	if err != nil {
		return err
	}
	a, err := decodeAttach(s.payload)
	if err != nil {
		return err
	}
	l.mu.Lock()
	p := l.sessions[a.id]
	l.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%w: control connection for id %s", ErrUnknownPeer, a.id)
	}
	if err := s.verify(p.session(), labelAttach); err != nil {
		return err
	}
	if err := l.checkProcess(from, p.process); err != nil {
		return err
	}
	if !p.mayAttach() {
		return fmt.Errorf("%w: second control connection for id %s", ErrUnknownPeer, a.id)
	}
	answer := seal(p.session(), labelAttached, attached{}.encode(), body)
	p.attachControl(ctx, ch, frame.Frame{Kind: frame.KindAttached, Body: answer})
	return nil
}
