package siblings

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// Dial connects to the sibling of that name or id. conn has the calls to the parent,
// such as [call.ConnOf] of a handler. The caller calls Close or Abort of the Peer in
// the end. The Peer has the name and the id of the sibling.
//
// The error matches [ErrUnknown], [ErrRefused], [ErrNotAccepting] or [ErrGone], or
// the error of ctx. If the connection to the parent has ended, it is a *call.Error.
func Dial(ctx context.Context, conn *call.Conn, name string) (*handshake.Peer, error) {
	peer, err := dial(ctx, conn, name)
	if err != nil {
		return nil, fmt.Errorf("siblings: connect to %q: %w", name, err)
	}
	return peer, nil
}

func dial(ctx context.Context, conn *call.Conn, name string) (*handshake.Peer, error) {
	in, err := find.Call(ctx, conn, name)
	if err != nil {
		return nil, err
	}
	var addr transport.Addr
	if err := addr.UnmarshalText([]byte(in.Addr)); err != nil {
		return nil, err
	}
	socket, err := uds.Dial(ctx, addr)
	if err == nil {
		var peer *handshake.Peer
		peer, err = handshake.ConnectPeer(ctx, socket, in.config())
		if err == nil && peer.ID == in.ID {
			peer.Name = in.Name
			return peer, nil
		}
		if err == nil {
			peer.Abort()
			err = fmt.Errorf("it is %s; want %s", peer.ID, in.ID)
		}
	}
	if ctx.Err() != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrGone, err)
}

// config returns the settings for the handshake with the sibling.
func (in *introduction) config() handshake.PeerConfig {
	return handshake.PeerConfig{
		Key: in.Key, Identity: handshake.Identity{ID: in.You}, Timeout: bound,
	}
}

// Accept lets siblings connect to this child. It adds a method for the parent to mux,
// the mux of the calls with the parent. For each sibling handle is called in a
// goroutine of its own. When it returns, the Peer is closed.
//
// The caller must call stop in the end. It ends the contexts of handle and waits until
// all calls of it have returned. These contexts also end with ctx. Then nobody can
// connect any more.
func Accept(
	ctx context.Context, mux *call.Mux, parent *forkspawn.Parent,
	handle func(ctx context.Context, peer *handshake.Peer),
) (stop func()) {
	a := &acceptor{parent: parent, handle: handle}
	a.ctx, a.cancel = context.WithCancel(ctx)
	invite.Handle(mux, a.invite)
	return func() {
		a.cancel()
		a.mu.Lock()
		a.closed = true
		a.mu.Unlock()
		a.running.Wait()
	}
}

type acceptor struct {
	ctx    context.Context
	cancel context.CancelFunc
	parent *forkspawn.Parent
	handle func(ctx context.Context, peer *handshake.Peer)

	mu      sync.Mutex // guards closed, and the beginning of goroutines
	closed  bool
	running sync.WaitGroup
}

// invite opens a socket for one sibling and returns its address.
func (a *acceptor) invite(_ context.Context, in introduction) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.ctx.Err() != nil {
		return "", ErrNotAccepting
	}
	ln, err := a.parent.ListenBeside(access.Key{})
	if err != nil {
		return "", err
	}
	a.running.Go(func() { a.serve(ln, in) })
	return transport.AddrOf(ln.Addr()).String(), nil
}

// serve accepts the sibling, and nobody else. After that it closes the socket.
func (a *acceptor) serve(ln net.Listener, in introduction) {
	ctx, stop := context.WithCancel(a.ctx)
	defer stop()
	late := time.AfterFunc(bound, stop)
	defer late.Stop()
	var used atomic.Bool
	// Its error is the end of ctx, or net.ErrClosed after the sibling has come.
	_ = handshake.ServePeers(ctx, ln, in.config(),
		func(_ context.Context, peer *handshake.Peer) {
			if peer.ID != in.ID || used.Swap(true) {
				return
			}
			late.Stop()
			ln.Close() // the key was used
			peer.Name = in.Name
			a.handle(a.ctx, peer)
		})
}
