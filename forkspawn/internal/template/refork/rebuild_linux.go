//go:build amd64 || arm64

package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// In assembly.

//go:noescape
func resume(flags, stack, tid, tls uintptr) uintptr

//go:noescape
func startBuilder(flags, stack, tid, tls uintptr, fn func(*arena), a *arena) uintptr

const (
	// As for threads of the Go runtime (os_linux.go there).
	sharedFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES |
		unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	// The thread gets its thread pointer, and the kernel writes its id where the
	// runtime reads it.
	threadFlags = sharedFlags | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID
	// The runtime does not know the builder. The kernel clears a word when it
	// ends.
	builderFlags = sharedFlags | unix.CLONE_SETTLS | unix.CLONE_CHILD_CLEARTID

	eagain = ^uintptr(syscall.EAGAIN) + 1 // as a system call returns it
)

// rebuild makes a whole process of the child, which has one thread. If it
// fails, it ends the process.
func rebuild(a *arena) {
	tid, _, _ := syscall.RawSyscall(syscall.SYS_GETTID, 0, 0, 0)
	*at(a.self.m + a.layout.procid) = uint64(tid)

	moveFiles(a)
	replaceFiles(a)
	renewPoller(a)
	reseed(a)

	store(&a.active, 0)
	store(&a.inside, 0) // the threads continue after the handler, and do not count themselves out
	a.timer = 0         // POSIX timers are not inherited, and their numbers begin at 0 again

	others := 0
	for i := range slots(a) {
		if s := &a.slots[i]; s.gen == a.gen {
			*at(s.m + a.layout.procid) = 0 // like a thread that has not begun to run
			others++
		}
	}
	wakeUp(a, tid, tid, a.self.m)
	if others == 0 {
		return
	}
	// To the runtime the others are now threads that the kernel has not let run
	// yet. So this thread need not wait for them.
	a.builderPID = tid
	store(&a.builder, 1)
	if a.aloneFor != (syscall.Timespec{}) {
		store(&a.alone, 1)
	}
	a.builderTLS[0] = uintptr(unsafe.Pointer(&a.zeroG))
	top, tls := uintptr(unsafe.Pointer(&a.builderTop)), uintptr(unsafe.Pointer(&a.builderTLS[1]))
	r := startBuilder(builderFlags, top, uintptr(unsafe.Pointer(&a.builder)), tls, build, a)
	if r > ^uintptr(4095) {
		die("clone of the builder\n", syscall.Errno(-r))
	}
}

// build runs in the builder, a thread with all signals blocked. It starts the
// others, each where it was frozen, and ends.
func build(a *arena) {
	alone := load(&a.alone) != 0
	if alone {
		// The thread that polls is needed at once, because the others sleep
		// meanwhile.
		for i := range slots(a) {
			if s := &a.slots[i]; s.gen == a.gen && polls(a, s) {
				start(a, s)
				s.gen = 0
			}
		}
		addr, timeout := uintptr(unsafe.Pointer(&a.alone)), uintptr(unsafe.Pointer(&a.aloneFor))
		// any end of the wait is good
		syscall.RawSyscall6(syscall.SYS_FUTEX, addr,
			0|128 /* FUTEX_WAIT_PRIVATE */, 1, timeout, 0, 0)
	}
	for i := range slots(a) {
		if s := &a.slots[i]; s.gen == a.gen {
			start(a, s)
		}
	}
}

// start starts a thread.
func start(a *arena, s *slot) {
	r := resume(threadFlags, s.frame+frameStack, s.m+a.layout.procid, s.tls)
	// clone fails with EAGAIN while the forking thread is in execve
	// (golang/go#49438), and at the limit of threads. The runtime also retries
	// for this time.
	for try := int64(1); r == eagain && try <= 20; try++ {
		a.builderSleep = syscall.Timespec{Nsec: try * 1e6}
		syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&a.builderSleep)), 0, 0)
		r = resume(threadFlags, s.frame+frameStack, s.m+a.layout.procid, s.tls)
	}
	if r > ^uintptr(4095) {
		die("clone of a thread\n", syscall.Errno(-r))
	}
	wakeUp(a, a.builderPID, r, s.m)
}

// wakeUp repeats a preemption signal that was pending for a thread at the fork.
// Pending signals are not inherited, and the runtime sends no second one before
// the first is handled. The runtime marks the m, then reads the thread's id,
// then sends. Here the id is set before the mark is read, in a system call, which
// takes longer than a store can stay unseen. So a preemption at the same time
// either uses the new id, or its mark is seen here.
func wakeUp(a *arena, pid, tid, m uintptr) {
	if a.layout.preempted == 0 || load(at32(m+a.layout.preempted)) != 0 {
		syscall.RawSyscall(syscall.SYS_TGKILL, pid, tid, uintptr(syscall.SIGURG))
	}
}

// die ends a child that cannot be rebuilt. With -d=checkptr=2 digits would be allocated.
//
//go:nocheckptr
func die(step string, e syscall.Errno) {
	say("refork: the child could not be rebuilt: errno ")
	digits := [3]byte{byte(e/100%10) + '0', byte(e/10%10) + '0', byte(e%10) + '0'}
	zeros := uintptr(0)
	for zeros < 2 && digits[zeros] == '0' {
		zeros++
	}
	syscall.RawSyscall(syscall.SYS_WRITE, 2, uintptr(unsafe.Pointer(&digits[zeros])), 3-zeros)
	say(" in ")
	say(step)
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, RebuildFailed, 0, 0)
	}
}

func say(s string) {
	syscall.RawSyscall(syscall.SYS_WRITE, 2,
		uintptr(unsafe.Pointer(unsafe.StringData(s))), uintptr(len(s)))
}
