//go:build !unix

package uds

import "net"

// Pair returns the two ends of a connection within this process. There are no socket pairs here: it is
// net.Pipe, and err is nil.
func Pair() (a, b net.Conn, err error) {
	a, b = net.Pipe()
	return a, b, nil
}
