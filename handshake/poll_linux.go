//go:build linux && !msan && !asan

package handshake

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pollNow is poll(2) of one descriptor, without a wait: so the scheduler need not be told of the call, which would wake a thread
// in a process that has slept.
func pollNow(fd *unix.PollFd) (n int, err error) {
	var none unix.Timespec
	r, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(fd)), 1, uintptr(unsafe.Pointer(&none)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// yield lets a process run that waits for this processor, if there is one (sched_yield(2)).
func yield() { syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
