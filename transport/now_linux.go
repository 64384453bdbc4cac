//go:build linux && (amd64 || arm64) && !race && !msan && !asan

package transport

import (
	"syscall"
	"unsafe"
)

// readNow, peekNow and writeNow are read(2), recv(2) with MSG_PEEK, and write(2) on a socket, and never wait (MSG_DONTWAIT), whatever
// mode the socket is in. So the scheduler need not be told of the call. In a process that has slept it would wake a thread to watch
// over it, which takes longer than the call. (For as long as it takes to copy the bytes nothing else runs in the goroutine's place,
// as with a copy in memory.)

func readNow(fd int, p []byte) (int, error) {
	return callNow(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
}

func peekNow(fd int, p []byte) (int, error) {
	return callNow(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_PEEK)
}

func writeNow(fd int, p []byte) (int, error) {
	return callNow(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

func callNow(call uintptr, fd int, p []byte, flags uintptr) (int, error) {
	n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
