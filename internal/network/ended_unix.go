//go:build unix

package network

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Ended reports whether the other side has closed conn, or has gone, although
// there may be unread input. It does not read. It reports false where the system
// cannot tell.
func Ended(conn net.Conn) bool {
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = tls.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: endEvents}}
		n, err := unix.Poll(fds, 0)
		ended = err == nil && n == 1 && fds[0].Revents&(endEvents|unix.POLLHUP|unix.POLLERR) != 0
	})
	return ended
}
