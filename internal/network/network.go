// Package network keeps the transports that a program has only if it imports
// them. It also makes the handshake of TLS connections, without an import of
// crypto/tls.
package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/neterr"
	"github.com/spawnwire/spawnwire/transport"
)

var (
	mu       sync.Mutex // guards byScheme
	byScheme = make(map[string]transport.Network)
)

// Register makes n the transport of a scheme. The init function of transport/tls
// calls it. It panics if the scheme has a transport already.
func Register(scheme string, n transport.Network) {
	mu.Lock()
	defer mu.Unlock()
	if byScheme[scheme] != nil {
		panic("network: Register of " + scheme + " a second time")
	}
	byScheme[scheme] = n
}

// Registered returns the transport that is registered for the scheme of addr.
// If there is none, the error is a [*transport.AddrError].
func Registered(addr transport.Addr) (transport.Network, error) {
	mu.Lock()
	defer mu.Unlock()
	if n := byScheme[addr.Scheme]; n != nil {
		return n, nil
	}
	reason := fmt.Sprintf("unknown scheme %q; want uds, tcp or tls", addr.Scheme)
	if addr.Scheme == transport.SchemeTLS {
		reason = `this program is built without TLS; add to it: import _ "github.com/spawnwire/spawnwire/transport/tls"`
	}
	return nil, &transport.AddrError{Input: addr.String(), Reason: reason}
}

// A client whose TLS handshake failed may send maxLeft bytes more, for
// leaveWithin, before Secure closes its connection.
const (
	maxLeft     = 64 << 10
	leaveWithin = time.Second
)

// Secure makes the handshake of a [crypto/tls.Conn], which transport.New needs.
// For other connections it does nothing. It returns when the handshake is done
// or ctx ends. If it fails, it closes conn. The error is that of package tls, or
// matches [transport.ErrPeerGone] or the context's error and cause.
func Secure(ctx context.Context, conn net.Conn) error {
	c, ok := conn.(interface {
		HandshakeContext(context.Context) error
		NetConn() net.Conn
	})
	if !ok {
		return nil
	}
	err := c.HandshakeContext(ctx)
	if err == nil {
		return nil
	}
	defer conn.Close()
	if ctx.Err() != nil {
		return neterr.Context(ctx)
	}
	if neterr.PeerGone(err) {
		return fmt.Errorf("%w, in the TLS handshake", transport.ErrPeerGone)
	}
	// An alert tells the other side the reason. A close with unread input would
	// reset the connection and lose the alert (RFC 1122, 4.2.2.13).
	over := c.NetConn()
	defer context.AfterFunc(ctx, func() { over.Close() })()
	if half, ok := over.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		over.SetReadDeadline(time.Now().Add(leaveWithin))
		io.CopyN(io.Discard, over, maxLeft)
	}
	return err
}
