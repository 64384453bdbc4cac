package handshake

import (
	"bytes"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const pollable = true

// pollInput asks poll(2) whether a descriptor has input. Even a poll with no
// wait is interrupted by a signal, such as one of the runtime's own.
func pollInput(fd uintptr) (yes, known bool) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != unix.EINTR {
			return n > 0, err == nil
		}
	}
}

// yield lets a process that waits for this processor run (sched_yield(2)).
func yield() { syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// atExecFn is the key of the program's file name in the auxiliary vector
// (getauxval(3)). The value is the address of the name. Since Linux 2.6 the
// kernel puts the name right after the strings of the environment.
const atExecFn = 31

// eraseEnviron overwrites an entry "key=value" in the process's initial
// environment. Unsetting a variable leaves it there, and other processes of the
// same user can read it in /proc/pid/environ. If eraseEnviron does not find the
// entry, it does nothing. The kernel makes the access, so a wrong address
// causes an error and no fault.
func eraseEnviron(entry string) {
	vector, err := unix.Auxv()
	if err != nil {
		return
	}
	var end uintptr
	for _, v := range vector {
		if v[0] == atExecFn {
			end = v[1]
		}
	}
	if end == 0 {
		return
	}
	pid := os.Getpid()
	want := append([]byte(entry), 0)
	// A parent with this library puts the entry last, so search from the end.
	for size := 4 << 10; size <= 1<<20; size *= 4 {
		b := make([]byte, size)
		start := end - uintptr(size)
		n, err := unix.ProcessVMReadv(pid, iovec(b),
			[]unix.RemoteIovec{{Base: start, Len: size}}, 0)
		if err != nil || n != size {
			return // the range would begin below the stack
		}
		if i := bytes.LastIndex(b, want); i >= 0 {
			zeros := make([]byte, len(entry))
			there := []unix.RemoteIovec{{Base: start + uintptr(i), Len: len(zeros)}}
			unix.ProcessVMWritev(pid, iovec(zeros), there, 0)
			return
		}
	}
}

func iovec(b []byte) []unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return []unix.Iovec{v}
}

// ownerOf returns the user that a file belongs to.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
