//go:build unix

package transport

import (
	"net"
	"syscall"
)

// maxDrained bounds what drain reads, in bytes: a peer that keeps sending does not keep us.
const maxDrained = 4 << 20

// drain reads and drops what has already arrived on a TCP connection, without waiting. Unix
// sockets need none: what was written stays readable after the other side has closed.
func drain(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		buf := make([]byte, 16<<10)
		for total := 0; total < maxDrained; {
			n, err := syscall.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return
			}
			total += n
		}
	})
}
