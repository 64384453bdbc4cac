package transport

import "golang.org/x/sys/unix"

// undelivered tells whether the peer's kernel lacks something that was written: what is not acknowledged
// (SIOCOUTQ, tcp(7)) or, on the loopback, not sent (SIOCOUTQNSD).
func undelivered(fd int, loopback bool) bool {
	request := uint(unix.SIOCOUTQ)
	if loopback {
		request = unix.SIOCOUTQNSD
	}
	n, err := unix.IoctlGetInt(fd, request)
	return err == nil && n > 0
}
