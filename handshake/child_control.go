package handshake

import (
	"context"
	"errors"
	"net"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/transport"
)

// Control reports whether parent and child agreed on a control connection.
func (j *Joined) Control() bool { return j.control }

// AttachControl makes conn the control connection, for the parent's cancel.
// conn must be a second connection to the ticket's address. AttachControl takes
// it over: on an error it is closed. It returns when the parent has accepted the
// connection, or when ctx ends. If the parent rejects it, the error matches
// [ErrRefused].
//
// The caller reads the returned channel. If the channel ends without a goodbye,
// the parent is gone.
func (j *Joined) AttachControl(ctx context.Context, conn net.Conn) (*transport.Channel, error) {
	if err := network.Secure(ctx, conn); err != nil {
		return nil, &Error{PhaseReady, err}
	}
	ch := newChannel(conn, nil)
	body := seal(j.session(), labelAttach, attach{j.id, childNonce()}.encode())
	err := frames(ch).Write(ctx, frame.Frame{Kind: frame.KindAttach, Body: body})
	if err == nil || errors.Is(err, transport.ErrPeerGone) { // it may have refused before
		err = j.expectAttached(ctx, ch, body)
	}
	if err != nil {
		ch.Abort()
		return nil, &Error{PhaseReady, err}
	}
	return ch, nil
}

// expectAttached reads the parent's answer to an attach and checks its proof.
func (j *Joined) expectAttached(
	ctx context.Context, ch *transport.Channel, attachBody []byte,
) error {
	body, err := expectFrame(ctx, ch, frame.KindAttached, versionRange{}, PhaseReady)
	if err != nil {
		return err
	}
	s, err := open(frame.KindAttached, body)
	if err != nil {
		return err
	}
	if err := s.verify(j.session(), labelAttached, attachBody); err != nil {
		return err
	}
	return decode(frame.KindAttached, s.payload, new(attached))
}
