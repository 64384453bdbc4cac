//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:noescape
func cloneForeign(flags, stack uintptr, gone *uint32) uintptr

var foreignGone uint32

// foreign starts a thread without the Go runtime. It returns its id and a
// function to end it.
func foreign(stack uintptr) (tid uintptr, end func()) {
	const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES |
		unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	tid = cloneForeign(flags, stack, &foreignGone)
	return tid, func() {
		atomic.StoreUint32(&foreignGone, 1)
		syscall.RawSyscall(syscall.SYS_FUTEX,
			uintptr(unsafe.Pointer(&foreignGone)), 1 /* FUTEX_WAKE */, 1)
		for {
			if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}
