//go:build !unix

package transport

import "net"

// raw prepares nothing: here a call on a socket may block.
func (c *Channel) raw(net.Conn) {}

// unpeek has nothing to do.
func (rd *reader) unpeek() {}
