//go:build (amd64 || arm64) && !race && !msan && !asan

package transport

import (
	"syscall"
	"unsafe"
)

// message is the argument of recvmsg(2). See readSocket for the reason of the raw call.
type message struct {
	header  syscall.Msghdr
	part    syscall.Iovec
	control []byte
}

func (m *message) receive(fd int, p []byte) (n int, control []byte, err error) {
	if m.control == nil {
		m.control = make([]byte, controlSize)
		m.header.Iov, m.header.Iovlen = &m.part, 1
	}
	m.header.Control, m.header.Controllen = &m.control[0], uint64(len(m.control))
	m.part.Base, m.part.Len = unsafe.SliceData(p), uint64(len(p))
	r, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&m.header)), syscall.MSG_DONTWAIT|syscall.MSG_CMSG_CLOEXEC)
	m.part.Base = nil
	if errno != 0 {
		return 0, nil, errno
	}
	return int(r), m.control[:m.header.Controllen], nil
}
