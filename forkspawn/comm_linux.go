package forkspawn

import (
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameProcess gives the process its program's name back: executed through /proc/self/exe, the kernel calls it "exe". A
// process has the name of its first thread, and prctl(2) with PR_SET_NAME names the calling one; another thread's is set
// by proc_pid_comm(5), which takes longer, and is seldom needed.
func nameProcess() {
	if len(os.Args) == 0 {
		return
	}
	var name [16]byte // the kernel's limit, with the NUL
	n := copy(name[:15], filepath.Base(os.Args[0]))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() == os.Getpid() {
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	} else {
		os.WriteFile("/proc/self/comm", name[:n], 0)
	}
}
