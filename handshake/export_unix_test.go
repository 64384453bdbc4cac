//go:build unix

package handshake

import "net"

// HasInput tells whether a connection has something to read, or its end, if it is known.
func HasInput(conn net.Conn) (yes, known bool) { return hasInput(conn) }
