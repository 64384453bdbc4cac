//go:build unix

package handshake

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// queued tells whether connections wait to be accepted.
func queued(ln net.Listener) bool {
	waiting, known := hasInput(ln)
	return known && waiting
}

// unread tells whether there is something to read on a connection, its end among it. One that is closed here,
// or of which it is not known, counts as such.
func unread(conn net.Conn) bool {
	waiting, known := hasInput(conn)
	return !known || waiting
}

// hasInput tells whether a socket has something to read or to accept, or its end, if it is known. Of TLS the connection
// below is asked: what it has taken from there is being looked at.
func hasInput(socket any) (yes, known bool) {
	return looker(socket)()
}

// looker makes ready for hasInput of a socket. A signal that comes at the moment of the call, as the runtime's own do when it wants a
// goroutine to stop, ends even a poll(2) that does not wait, with EINTR.
func looker(socket any) (hasInput func() (yes, known bool)) {
	if over, ok := socket.(interface{ NetConn() net.Conn }); ok {
		socket = over.NetConn()
	}
	var raw syscall.RawConn
	if c, ok := socket.(syscall.Conn); ok {
		raw, _ = c.SyscallConn()
	}
	if raw == nil {
		return func() (yes, known bool) { return false, false }
	}
	return func() (yes, known bool) {
		err := raw.Control(func(fd uintptr) {
			n, err := pollNow(&unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			for err == unix.EINTR {
				n, err = pollNow(&unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			}
			yes, known = n > 0, err == nil
		})
		return yes, known && err == nil
	}
}

// floods drops what a stranger has sent besides, and tells whether it is more than anybody may say: of such a one
// not even the refusal is worth the work of an orderly close over TCP, which drops megabytes of what still comes.
func floods(conn net.Conn) bool {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !unread(tcp) {
		return false
	}
	b := make([]byte, PreAuthLimit/4)
	for total := 0; total < PreAuthLimit; {
		n, err := tcp.Read(b) // at once, as there is something
		if err != nil || !unread(tcp) {
			return false
		}
		total += n
	}
	return true
}
