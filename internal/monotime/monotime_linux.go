package monotime

import (
	"syscall"
	"unsafe"
)

const clockMonotonic = 1

// The syscall package alone, because this package must come early among a child's package inits.
func now() int64 {
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return 0
	}
	return ts.Nano()
}
