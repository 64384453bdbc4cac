package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// What Secure reads of somebody whom it turns away, in bytes, and for how long.
const (
	maxLeft     = 64 << 10
	leaveWithin = time.Second
)

// Secure makes the handshake of a [crypto/tls.Conn], without which [New] cannot take it; other connections need none. It
// returns when that is done or ctx ends. On an error conn is closed: the error is that of package tls, or has
// [ErrPeerGone] or the context's error and cause in it.
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
		return newContextError(ctx)
	}
	if netError(err) == ErrPeerGone {
		return fmt.Errorf("%w, in the TLS handshake", ErrPeerGone)
	}
	// The other side learns why by an alert. A close would throw it away if there is input that nobody has read
	// (RFC 1122, 4.2.2.13).
	over := c.NetConn()
	defer context.AfterFunc(ctx, func() { over.Close() })()
	if half, ok := over.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		over.SetReadDeadline(time.Now().Add(leaveWithin))
		io.CopyN(io.Discard, over, maxLeft)
	}
	return err
}
