package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// freezeSignal stops a thread. 34 is the one signal that the Go runtime never blocks, while threads run Go
// code, and never handles: package os/signal has a thread that blocks all others that can be caught, 33 is the
// runtime's own and 32 belongs to C libraries (sigtab_linux_generic.go of the Go runtime).
const freezeSignal = 34

// In assembly.

func handlerPC() uintptr
func restorerPC() uintptr
func currentG() uintptr

// call calls fn with a, on the stack that ends at top and with zeroG for its g.
//
//go:noescape
func call(fn func(*arena), a *arena, top, zeroG uintptr)

// freezeAndFork is the frozen section, from the moment that all signals are blocked until they are not. In the parent
// arena.pid is the child's, or 0 and arena.result says why there is none. In the child it is 0, and arena.child is true.
//
// All that runs in it makes raw system calls, touches the arena, and reads and sets numbers of the runtime's: it cannot
// allocate or take a lock. It must not grow its stack or be preempted either, and both are asked for by way of
// g.stackguard0, which every function looks at. Functions marked nosplit do not; but the linker lets them have 800 bytes of
// stack together, which is enough or not depending on the compiler, its options and a profile. So the section runs on a
// stack of its own, with a g that is all zeros, and so has no limit. No signal handler must see that: signals are
// blocked and let through here, where stack and g are the goroutine's.
//
//go:nosplit
//go:noinline
func freezeAndFork(a *arena) {
	all, old := uintptr(unsafe.Pointer(&allSignals)), uintptr(unsafe.Pointer(&a.oldMask))
	if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, all, old, 8, 0, 0); e != 0 {
		a.result = result{code: failedMask, errno: e}
		return
	}
	a.g = currentG()
	call(frozenSection, a, uintptr(unsafe.Pointer(&a.stackTop)), uintptr(unsafe.Pointer(&a.zeroG)))
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, old, 0, 8, 0, 0)
}

var allSignals = ^uint64(0)

func frozenSection(a *arena) {
	a.pid, a.child = 0, false
	a.frozenAt, a.thawedAt = 0, 0
	a.result = freeze(a)
	switch a.result.code {
	case failedAction, foreignHandler, stillInside:
		return // no thread was asked to stop, and a builder that runs still goes by gen, which a thaw would change
	}
	if a.result.code == ok {
		a.frozenAt = clock(a)
		a.result = inspect(a)
	}
	if a.result.code == ok && a.request.wanted {
		a.result = watchSignals(a)
	}
	for a.result.code == ok {
		if a.request.wanted {
			a.result = awaitRequest(a)
			a.frozenAt = clock(a)
			if a.result.code != ok {
				break
			}
		}
		a.pidfd = -1
		pid, _, e := syscall.RawSyscall(syscall.SYS_CLONE, a.cloneFlags, 0, uintptr(unsafe.Pointer(&a.pidfd)))
		if e != 0 {
			a.result = result{code: failedClone, errno: e}
			break
		}
		if pid == 0 {
			a.child = true
			rebuild(a)
			return
		}
		a.pid = pid
		sendReport(a)
		if !a.request.wanted || !a.report.sent {
			holdReport(a)
			break
		}
		forgetRequest(a)
		a.pid = 0
	}
	thaw(a)
	a.thawedAt = clock(a)
}

// freeze stops every other thread in the handler, within arena.wait.
//
// A thread may start another one until it is frozen, so threads are listed again and again, until all of a
// list were frozen before it was made: then nobody was left who could have changed it. A list may also lack
// threads, when one ends while it is read; so the kernel's count of threads must agree.
func freeze(a *arena) result {
	if r := install(a); r.code != ok {
		return r
	}
	deadline := clock(a) + a.wait
	// No handler of an earlier attempt may write to a slot that this one hands out, nor may the builder that
	// makes this process whole still read them.
	for load(&a.inside) != 0 || load(&a.builder) != 0 {
		if clock(a) > deadline {
			return result{code: stillInside, a: uint64(load(&a.inside)), b: uint64(load(&a.builder))}
		}
		syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	}
	// The order matters. A handler reads gen first: one that reads the old gen and then sees active, takes
	// a slot of this attempt that is never valid, and goes on at once, as gen is not what it waits for.
	a.taken = 0
	a.nSent = 0
	add(&a.gen)
	store(&a.active, 1)

	pid, _, _ := syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
	self, _, _ := syscall.RawSyscall(syscall.SYS_GETTID, 0, 0, 0)
	a.self = slot{tid: uint32(self)}
	slow, asleep := false, 0
	for {
		before := frozen(a)
		n, e := list(a, a.taskDir, &a.tids[0], maxThreads)
		if e != 0 {
			return result{code: failedList, errno: e, a: uint64(a.taskDir)}
		}
		if n < 0 {
			return result{code: tooManyThreads}
		}
		a.nTids = n
		links, e := threadCount(a)
		if e != 0 {
			return result{code: failedList, errno: e, a: uint64(a.taskDir)}
		}
		seenSelf, missing := false, 0
		for i := range a.tids[:n] {
			tid := a.tids[i]
			switch {
			case tid == uint32(self):
				seenSelf = true
			case !hasSlot(a, tid):
				missing++
				if wasSent(a, tid) {
					continue
				}
				if a.nSent == maxThreads {
					return result{code: tooManyThreads}
				}
				// One that is gone (ESRCH) is not in the next list; one whose user has too many signals queued (EAGAIN) is.
				if _, _, e := syscall.RawSyscall(syscall.SYS_TGKILL, pid, uintptr(tid), freezeSignal); e == 0 {
					a.sent[a.nSent] = tid
					a.nSent++
				}
			}
		}
		if !seenSelf {
			// The kernel ends a list early when the thread that it is at ends just then.
			if clock(a) > deadline {
				return result{code: noSelf, a: uint64(self)}
			}
			continue
		}
		if missing == 0 && before == n-1 && links == n {
			return result{}
		}
		// A thread that sleeps on has blocked the signal, and what it waits for may be held by one that is frozen. One
		// that is late for want of a CPU does not sleep.
		if slow && sleeps(a) {
			asleep++
		} else {
			asleep = 0
		}
		if asleep == 3 {
			return result{code: timedOut, a: uint64(n - 1), b: uint64(frozen(a))}
		}
		// Wait until all that are listed are frozen, and list again, after half a millisecond anyway: one may have ended.
		slow = true
		for spins := range 105 {
			if frozen(a) >= n-1 {
				slow = false
				break
			}
			if spins < 100 {
				syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
				continue
			}
			*(*syscall.Timespec)(unsafe.Pointer(&a.scratch)) = syscall.Timespec{Nsec: 50_000}
			syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&a.scratch)), 0, 0)
		}
		switch {
		case clock(a) <= deadline:
		case missing == 0 && before == n-1:
			return result{code: wrongLinks, a: uint64(links), b: uint64(n)}
		default:
			return result{code: timedOut, a: uint64(n - 1), b: uint64(frozen(a))}
		}
	}
}

// thaw lets all threads go on. Those that the signal has not reached yet leave the handler as they enter it.
func thaw(a *arena) {
	store(&a.active, 0)
	add(&a.gen)
	syscall.RawSyscall(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(&a.gen)), 1|128 /* FUTEX_WAKE_PRIVATE */, 1<<30)
}

// install sets the handler, at every fork, as somebody may have set another. It stays: without one the signal
// would end the process, and it may still be under way to a thread.
func install(a *arena) result {
	for {
		_, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, freezeSignal, 0, uintptr(unsafe.Pointer(&a.oldAction)), 8, 0, 0)
		if e != 0 {
			return result{code: failedAction, errno: e}
		}
		switch a.oldAction.handler {
		case a.newAction.handler:
			return result{}
		case 0, 1: // SIG_DFL, SIG_IGN
			if _, _, e = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, freezeSignal, uintptr(unsafe.Pointer(&a.newAction)), 0, 8, 0, 0); e != 0 {
				return result{code: failedAction, errno: e}
			}
		default:
			return result{code: foreignHandler, a: uint64(a.oldAction.handler)}
		}
	}
}

// frozen counts the slots of this attempt.
func frozen(a *arena) int {
	n := 0
	gen := a.gen
	for i := range slots(a) {
		if load(&a.slots[i].gen) == gen {
			n++
		}
	}
	return n
}

// slots is how many were handed out; not all need to be whole.
func slots(a *arena) int { return int(min(load(&a.taken), maxThreads)) }

func hasSlot(a *arena, tid uint32) bool {
	gen := a.gen
	for i := range slots(a) {
		if load(&a.slots[i].gen) == gen && a.slots[i].tid == tid {
			return true
		}
	}
	return false
}

func wasSent(a *arena, tid uint32) bool {
	for i := range a.nSent {
		if a.sent[i] == tid {
			return true
		}
	}
	return false
}

// sleeps tells whether a thread that was sent the signal sleeps, or is a zombie (proc_pid_stat(5): "1234 (name) S").
func sleeps(a *arena) bool {
	for i := range a.tids[:a.nTids] {
		tid := a.tids[i]
		if hasSlot(a, tid) || !wasSent(a, tid) {
			continue
		}
		const name = "/stat\x00"
		pos := len(a.scratch) - len(name)
		copy(a.scratch[pos:], name)
		for ; tid != 0; tid /= 10 {
			pos--
			a.scratch[pos] = byte(tid%10) + '0'
		}
		const flags = syscall.O_RDONLY | syscall.O_CLOEXEC
		fd, _, e := syscall.RawSyscall6(syscall.SYS_OPENAT, a.taskDir, uintptr(unsafe.Pointer(&a.scratch[pos])), flags, 0, 0, 0)
		if e != 0 {
			continue
		}
		size, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&a.text)), textSize)
		syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
		if e != 0 {
			continue
		}
		for size > 0 && a.text[size-1] != ')' { // a name can have one too, and nothing after it has
			size--
		}
		if state := a.text[size+1]; size > 0 && (state == 'S' || state == 'Z') {
			return true
		}
	}
	return false
}

// threadCount is the kernel's own count of the process's threads: the links of /proc/self/task are two more.
func threadCount(a *arena) (int, syscall.Errno) {
	st := (*syscall.Stat_t)(unsafe.Pointer(&a.text))
	_, _, e := syscall.RawSyscall(syscall.SYS_FSTAT, a.taskDir, uintptr(unsafe.Pointer(st)), 0)
	return int(st.Nlink) - 2, e
}

// list reads the numbers that are names in a directory. -1 is: more than max.
func list(a *arena, dir uintptr, out *uint32, max int) (int, syscall.Errno) {
	if _, _, e := syscall.RawSyscall(syscall.SYS_LSEEK, dir, 0, 0); e != 0 {
		return 0, e
	}
	n := 0
	for {
		size, _, e := syscall.RawSyscall(syscall.SYS_GETDENTS64, dir, uintptr(unsafe.Pointer(&a.text)), textSize)
		if e != 0 {
			return 0, e
		}
		if size == 0 {
			return n, 0
		}
		for pos := uintptr(0); pos < size; {
			// struct linux_dirent64 of getdents(2): ino, off, then reclen at 16, type, the name at 19.
			length := uintptr(a.text[pos+16]) | uintptr(a.text[pos+17])<<8
			number, isNumber := uint32(0), false
			for i := pos + 19; a.text[i] != 0; i++ {
				digit := a.text[i] - '0'
				isNumber = digit <= 9
				if !isNumber {
					break
				}
				number = number*10 + uint32(digit)
			}
			pos += length
			if !isNumber {
				continue
			}
			if n == max {
				return -1, 0
			}
			*(*uint32)(unsafe.Add(unsafe.Pointer(out), n*4)) = number
			n++
		}
	}
}

// clock is CLOCK_MONOTONIC in ns.
func clock(a *arena) int64 {
	ts := (*syscall.Timespec)(unsafe.Pointer(&a.scratch))
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(ts)), 0)
	return ts.Sec*1e9 + ts.Nsec
}
