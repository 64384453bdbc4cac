//go:build !unix

package handshake

import "net"

// queued does not know.
func queued(net.Listener) bool { return false }

// unread does not know.
func unread(net.Conn) bool { return true }

// floods does not know.
func floods(net.Conn) bool { return false }

// looker does not know.
func looker(any) func() (yes, known bool) {
	return func() (yes, known bool) { return false, false }
}

// yield does nothing.
func yield() {}
