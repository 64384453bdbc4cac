//go:build linux && (amd64 || arm64) && !race && !msan && !asan

package transport

import (
	"syscall"
	"unsafe"
)

// readSocket and writeSocket never block (MSG_DONTWAIT), so they do not announce the
// call to the scheduler. After a sleep of the process the announcement would wake a
// thread to watch over the call. This takes longer than the call itself.

func readSocket(fd int, p []byte) (int, error) {
	return rawCall(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
}

func writeSocket(fd int, p []byte) (int, error) {
	return rawCall(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

func rawCall(call uintptr, fd int, p []byte, flags uintptr) (int, error) {
	n, _, errno := syscall.RawSyscall6(call, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
