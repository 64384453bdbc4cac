package forkspawn

import (
	"context"
	"errors"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
)

// The pause of attachPatiently doubles from one to the other.
const (
	minAttachPause = 50 * time.Millisecond
	maxAttachPause = 2 * time.Second
)

// A parent to which too many strangers are connected cuts the oldest connections of which it does not know whose they are. With a
// child's control connection it says so, as its mere end would mean that the parent is gone; but it cannot before TLS is
// set up. So where that may be what has happened a child connects once more. If the parent is gone nobody listens then,
// unless somebody forwards the port: so it tries that often, which takes three seconds.
const maxCuts = 6

// mayBeTurnedAway tells whether a control connection that was cut may have been one of which the parent did not know yet whose
// it is.
func (p *Parent) mayBeTurnedAway(attached time.Time) bool {
	return p.addr.Scheme == transport.SchemeTLS && time.Since(attached) < handshake.DefaultHelloTimeout
}

// attachPatiently opens the child's control connection, and tries again as long as this process has
// no descriptor for it. The message channel tells most of what it would, meanwhile.
func (p *Parent) attachPatiently() (*transport.Channel, error) {
	cuts := 0
	for pause := minAttachPause; ; pause = min(2*pause, maxAttachPause) {
		dialed := time.Now()
		ch, err := p.attach(p.attaching)
		var scarce *ResourceError
		switch {
		case err == nil:
			return ch, nil
		case errors.As(err, &scarce):
		case errors.Is(err, transport.ErrPeerGone) && p.mayBeTurnedAway(dialed) && cuts < maxCuts:
			cuts++
		default:
			return nil, err
		}
		if awaitClosed(context.Background(), p.open.Done(), pause) {
			return nil, err
		}
	}
}

// ownControl returns the control connection that was there from the start. It tries again as long as this process has no
// descriptor to spare, until Close.
func (p *Parent) ownControl() (*transport.Channel, error) {
	for {
		conn, err := p.control()
		if err == nil {
			return transport.New(conn, transport.Config{Limit: handshake.PreAuthLimit}), nil
		}
		if awaitClosed(context.Background(), p.open.Done(), minAttachPause) {
			return nil, err
		}
	}
}

func (p *Parent) attach(ctx context.Context) (*transport.Channel, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	return p.joined.AttachControl(ctx, conn)
}
