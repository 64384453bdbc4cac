//go:build !((amd64 || arm64) && !race && !msan && !asan)

package transport

import "golang.org/x/sys/unix"

// message is the argument of recvmsg(2).
type message struct{ control []byte }

func (m *message) receive(fd int, p []byte) (n int, control []byte, err error) {
	if m.control == nil {
		m.control = make([]byte, controlSize)
	}
	n, size, _, _, err := unix.Recvmsg(fd, p, m.control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, nil, err
	}
	return n, m.control[:size], nil
}
