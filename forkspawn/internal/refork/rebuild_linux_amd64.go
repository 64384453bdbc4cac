package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resume is in the assembly file.
//
//go:noescape
func resume(flags, stack, tid, tls uintptr) uintptr

// What a thread of the Go runtime shares with the others (os_linux.go there), its FS base, and that the
// kernel writes its id where the runtime looks for it.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD |
	unix.CLONE_SYSVSEM | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID

// rebuild makes the child, which has one thread yet, a whole process again. It must not fail, and ends
// the process when it does.
//
//go:nosplit
func rebuild(a *arena) {
	tid, _, _ := syscall.RawSyscall6(syscall.SYS_GETTID, 0, 0, 0, 0, 0, 0)
	*at(a.self.m + a.layout.procid) = uint64(tid)

	moveFiles(a)
	poisonFiles(a)
	renewPoller(a)
	reseed(a)

	// The threads go on behind the handler, and will not count themselves out.
	store(&a.inside, 0)
	store(&a.active, 0)
	a.timer = 0 // POSIX timers are not inherited, their numbers begin anew
	resumeThreads(a, tid)
	add(&a.gen)
}

//go:nosplit
func resumeThreads(a *arena, pid uintptr) {
	wakeUp(pid, pid)
	for i := range slots(a) {
		s := &a.slots[i]
		if s.gen != a.gen {
			continue
		}
		r := resume(threadFlags, s.frame+8, s.m+a.layout.procid, s.fs)
		if r > ^uintptr(4095) {
			die("clone of a thread\n", syscall.Errno(-r))
		}
		wakeUp(pid, r)
	}
}

// wakeUp repeats the signals that may have been under way to a thread when the process was forked, and
// were lost: the runtime's preemption, as it sends no second one until the first is handled, and its
// AllThreadsSyscall. One too many does nothing.
//
//go:nosplit
func wakeUp(pid, tid uintptr) {
	syscall.RawSyscall6(syscall.SYS_TGKILL, pid, tid, uintptr(syscall.SIGURG), 0, 0, 0)
	syscall.RawSyscall6(syscall.SYS_TGKILL, pid, tid, 33, 0, 0, 0)
}

// die ends the child that cannot be rebuilt.
//
//go:nosplit
func die(step string, e syscall.Errno) {
	say("refork: the child could not be rebuilt: errno ")
	digits := [4]byte{byte(e/100%10) + '0', byte(e/10%10) + '0', byte(e%10) + '0', ' '}
	syscall.RawSyscall6(syscall.SYS_WRITE, 2, uintptr(unsafe.Pointer(&digits)), uintptr(len(digits)), 0, 0, 0)
	say(step)
	for {
		syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, RebuildFailed, 0, 0, 0, 0, 0)
	}
}

//go:nosplit
func say(s string) {
	syscall.RawSyscall6(syscall.SYS_WRITE, 2, uintptr(unsafe.Pointer(unsafe.StringData(s))), uintptr(len(s)), 0, 0, 0)
}
