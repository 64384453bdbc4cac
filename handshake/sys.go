package handshake

import (
	"net"
	"syscall"

	"github.com/spawnwire/spawnwire/internal/access"
)

// queued reports whether connections wait to be accepted. It returns false if
// this is unknown.
func queued(ln net.Listener) bool {
	yes, known := hasInput(ln)
	return known && yes
}

// unread reports whether a connection has unread input. The end of the
// connection counts as input. It returns true if this is unknown, or if this
// side has closed the connection.
func unread(conn net.Conn) bool {
	yes, known := hasInput(conn)
	return !known || yes
}

// hasInput reports whether a socket has input, has a connection to accept, or
// has ended. For a TLS connection it asks the underlying connection.
func hasInput(socket any) (yes, known bool) {
	if tls, ok := socket.(interface{ NetConn() net.Conn }); ok {
		socket = tls.NetConn()
	}
	c, ok := socket.(syscall.Conn)
	if !ok {
		return false, false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false, false
	}
	err = raw.Control(func(fd uintptr) { yes, known = pollInput(fd) })
	return yes, known && err == nil
}

// floods discards the input after a refused hello. It reports whether the
// client has sent more than an unauthenticated client may. Then the caller
// aborts the connection, because an orderly close over TCP would discard
// megabytes more.
func floods(conn net.Conn) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !pollable || !unread(tcp) {
		return false
	}
	b := make([]byte, access.PreAuthLimit/4)
	for total := 0; total < access.PreAuthLimit; {
		n, err := tcp.Read(b) // does not block, because there is input
		if err != nil || !unread(tcp) {
			return false
		}
		total += n
	}
	return true
}
