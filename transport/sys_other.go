//go:build !unix

package transport

import "net"

// useRaw does nothing, because every call on a socket may block here.
func (c *Channel) useRaw(net.Conn) {}
