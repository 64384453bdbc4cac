package osproc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	limitDescriptors = unix.RLIMIT_NOFILE
	limitProcesses   = unix.RLIMIT_NPROC
)

// limitNow returns the value of a limit of this process, for an error: " is 1024".
func limitNow(resource int) string {
	var r unix.Rlimit
	if unix.Getrlimit(resource, &r) != nil {
		return ""
	}
	if r.Cur == unix.RLIM_INFINITY {
		return " is unlimited"
	}
	return " is " + strconv.FormatUint(r.Cur, 10)
}

// NameProcess sets this process's name to that of its program, because the kernel
// names a process "exe" after an exec of /proc/self/exe. The name of a process is
// that of its first thread. PR_SET_NAME (prctl(2)) names the calling thread. For
// another thread there is proc_pid_comm(5), but it is slower.
func NameProcess() {
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

// Traced reports whether a debugger is attached to the process (TracerPid in
// proc_pid_status(5)).
func Traced(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	_, rest, found := bytes.Cut(status, []byte("\nTracerPid:\t"))
	return found && !bytes.HasPrefix(rest, []byte("0\n"))
}
