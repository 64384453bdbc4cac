//go:build unix

package transport

import (
	"context"
	"net"
	"syscall"
	"time"
)

// maxDrained bounds what drain drops at a time, in bytes: a peer that keeps sending does not keep us.
const maxDrained = 4 << 20

// drain drops what arrives on a TCP connection until ctx ends, the peer has closed, or its kernel has
// all that was sent. Unix sockets need none: what was written stays readable after the other side has
// closed. On the loopback what was sent has been delivered, and the acknowledgement alone, which a
// receiver delays, is not worth a wait.
func drain(ctx context.Context, conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	peer, _ := conn.RemoteAddr().(*net.TCPAddr)
	loopback := peer != nil && peer.IP.IsLoopback()
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		var more bool
		err := raw.Control(func(fd uintptr) { more = discard(int(fd)) && undelivered(int(fd), loopback) })
		if err != nil || !more {
			return
		}
		select { // no event tells when an acknowledgement comes
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// discard drops what has arrived and tells whether more may come.
func discard(fd int) bool {
	buf := make([]byte, 16<<10)
	for total := 0; total < maxDrained; {
		switch n, err := syscall.Read(fd, buf); {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return true
		case n <= 0 || err != nil:
			return false
		default:
			total += n
		}
	}
	return true
}
