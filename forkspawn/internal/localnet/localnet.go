// Package localnet connects goroutines of one process like a network.
package localnet

import (
	"context"
	"net"
	"sync"

	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// Net connects entries that run in this process: Dial makes a socket pair and
// gives the other end to Accept. It is a net.Listener without an address.
type Net struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// New returns a Net.
func New() *Net {
	return &Net{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial returns one end of a new socket pair after Accept has returned the other.
func (n *Net) Dial(ctx context.Context) (net.Conn, error) {
	near, far, err := unixsock.Pair()
	if err != nil {
		return nil, err
	}
	select {
	case n.conns <- far:
		return near, nil
	case <-n.closed:
		err = transport.ErrPeerGone
	case <-ctx.Done():
		err = wait.Cause(ctx)
	}
	near.Close()
	far.Close()
	return nil, err
}

// Accept returns the other end of the next dial.
func (n *Net) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and Dial.
func (n *Net) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr returns no address.
func (n *Net) Addr() net.Addr { return transport.Addr{} }
