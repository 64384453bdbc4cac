package transport

import "golang.org/x/sys/unix"

// unacknowledged tells whether the peer's kernel lacks something that was sent (SIOCOUTQ, tcp(7)).
func unacknowledged(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	return err == nil && n > 0
}
