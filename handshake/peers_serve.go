package handshake

import (
	"context"
	"fmt"
	"net"

	"github.com/spawnwire/spawnwire/internal/neterr"
)

// ServePeers accepts peers on ln and calls handle for each, in a goroutine of its
// own. It closes the peer when handle has returned.
//
// When ctx ends, ServePeers closes ln, waits until all calls of handle have
// returned, and returns the error of ctx. The context of handle ends then, too. If
// somebody else closes ln, the error matches [net.ErrClosed]. If an accept fails for
// lack of descriptors or memory, ServePeers tries again after a pause.
//
// A client that does not finish its handshake within PeerConfig.Timeout is refused.
// PeerConfig.MaxPending bounds the handshakes under way. If there are too many, a new
// connection replaces the oldest one.
func ServePeers(
	ctx context.Context, ln net.Listener, cfg PeerConfig,
	handle func(ctx context.Context, peer *Peer),
) error {
	if _, err := cfg.check(); err != nil {
		ln.Close()
		return fmt.Errorf("handshake: %w", err)
	}
	limits := ListenerConfig{
		HelloTimeout: cfg.Timeout, MaxPending: cfg.MaxPending, Logger: cfg.Logger,
	}
	l, err := listen(ln, limits, func(l *Listener, pending context.Context, p *pending) {
		defer p.drop(nil)
		peer, err := AcceptPeer(pending, p.conn, cfg)
		l.removePending(p)
		if err != nil {
			l.logRefusal(p.conn, 0, err)
			return
		}
		defer peer.Close()
		handle(ctx, peer)
	})
	if err != nil {
		ln.Close()
		return err
	}
	defer l.Close()
	select {
	case <-ctx.Done():
		return neterr.Context(ctx)
	case <-l.accepts:
		return fmt.Errorf("handshake: serve peers: %w", l.acceptErr)
	}
}
