//go:build amd64 || arm64

package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// freezeSignal freezes a thread. The Go runtime neither handles 34 nor blocks
// it in threads with Go code. It is the only such signal: a thread of package
// os/signal blocks all others that can be caught, 33 is the runtime's own, and
// 32 belongs to C libraries (sigtab_linux_generic.go of the Go runtime).
const (
	freezeSignal     = 34
	freezeSignalText = "34"
)

// In assembly.

func handlerPC() uintptr
func currentG() uintptr
func threadPointer() uintptr

// call calls fn with a, on the stack that ends at top and with zeroG for its g.
//
//go:noescape
func call(fn func(*arena), a *arena, top, zeroG uintptr)

// freezeAndFork runs the frozen section, with all signals blocked. In the
// parent arena.pid is the child's, or 0, and then arena.result is the reason.
// In the child arena.pid is 0 and arena.child is true.
//
// The section makes raw system calls, uses the arena, and reads and sets
// numbers of the runtime. It cannot allocate, take a lock, grow its stack or be
// preempted. It runs on a stack of its own with a g of zeros. No signal handler
// may see these, so signals are blocked and unblocked here, with the stack and
// the g of the goroutine (docs/design/173-frozen-section.md).
//
//go:nosplit
//go:noinline
func freezeAndFork(a *arena) {
	all, old := uintptr(unsafe.Pointer(&allSignals)), uintptr(unsafe.Pointer(&a.oldMask))
	if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		all, old, 8, 0, 0); e != 0 {
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
		return // no thread was signalled, and a thaw would change gen, which a running builder uses
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
		pid, _, e := syscall.RawSyscall(syscall.SYS_CLONE, a.cloneFlags, 0,
			uintptr(unsafe.Pointer(&a.pidfd)))
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
// A thread can start another one until it is frozen. So freeze lists the
// threads again and again, until all threads of a list were frozen before the
// list was made: then no thread was left that could have started another. A
// list can also lack threads, if a thread ends while it is read. So the
// kernel's count must agree.
func freeze(a *arena) result {
	if r := install(a); r.code != ok {
		return r
	}
	deadline := clock(a) + a.wait
	// A handler of an earlier attempt must not write to a slot of this one, and
	// the builder of this process must not read them any more.
	for load(&a.inside) != 0 || load(&a.builder) != 0 {
		if clock(a) > deadline {
			return result{code: stillInside, a: uint64(load(&a.inside)),
				b: uint64(load(&a.builder))}
		}
		syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	}
	// The order matters, because a handler reads gen first. If it reads the old
	// gen and then sees active, its slot is never valid, and it goes on at
	// once, because gen differs from the one that it waits for.
	a.taken = 0
	a.nSent = 0
	add(&a.gen)
	store(&a.active, 1)

	pid, _, _ := syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
	self, _, _ := syscall.RawSyscall(syscall.SYS_GETTID, 0, 0, 0)
	a.self = slot{tid: uint32(self)}
	slow, asleep, late := false, 0, 0
	for {
		before := frozen(a)
		links, seenSelf, missing, r := signalThreads(a, pid, self)
		if r.code != ok {
			return r
		}
		n := a.nTids
		if !seenSelf {
			// The kernel ends a list early when the thread at its position
			// ends.
			if clock(a) > deadline {
				return result{code: noSelf, a: uint64(self)}
			}
			continue
		}
		if missing == 0 && before == n-1 && links == n {
			return result{}
		}
		// A thread that keeps sleeping has blocked the signal, and a frozen
		// thread may hold what it waits for. A thread that only lacks a CPU
		// does not sleep.
		if slow && sleeps(a) {
			asleep++
		} else {
			asleep = 0
		}
		if asleep == 3 {
			return result{code: timedOut, a: uint64(n - 1), b: uint64(frozen(a))}
		}
		slow = !awaitFrozen(a, n-1)
		switch {
		case clock(a) <= deadline:
		case missing == 0 && before == n-1:
			return result{code: wrongLinks, a: uint64(links), b: uint64(n)}
		case !slow && late < lateLists:
			late++ // all have stopped, and only the list is missing that shows it
		default:
			return result{code: timedOut, a: uint64(n - 1), b: uint64(frozen(a))}
		}
	}
}

// lateLists is how many more lists freeze makes after its time. On a busy machine the
// first list can take all of it.
const lateLists = 3

// signalThreads lists the threads and sends the signal to those that are new.
// It returns the kernel's count of threads, whether the calling thread is in
// the list, and how many of the list are not frozen.
func signalThreads(a *arena, pid, self uintptr) (links int, seenSelf bool, missing int, r result) {
	n, e := list(a, a.taskDir, &a.tids[0], maxThreads)
	if e != 0 {
		return 0, false, 0, result{code: failedList, errno: e, a: uint64(a.taskDir)}
	}
	if n < 0 {
		return 0, false, 0, result{code: tooManyThreads, a: maxThreads}
	}
	a.nTids = n
	if links, e = threadCount(a); e != 0 {
		return 0, false, 0, result{code: failedList, errno: e, a: uint64(a.taskDir)}
	}
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
				return links, seenSelf, missing, result{code: tooManyThreads, a: maxThreads}
			}
			// After ESRCH the thread is not in the next list. After EAGAIN,
			// when its user has too many signals queued, it is, and gets the
			// signal then.
			if _, _, e := syscall.RawSyscall(syscall.SYS_TGKILL, pid,
				uintptr(tid), freezeSignal); e == 0 {
				a.sent[a.nSent] = tid
				a.nSent++
			}
		}
	}
	return links, seenSelf, missing, result{}
}

// awaitFrozen waits until so many threads are frozen, for half a millisecond at
// most, because a thread may have ended. It reports whether they are.
func awaitFrozen(a *arena, threads int) bool {
	for spins := range 105 {
		if frozen(a) >= threads {
			return true
		}
		if spins < 100 {
			syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		*(*syscall.Timespec)(unsafe.Pointer(&a.scratch)) = syscall.Timespec{Nsec: 50_000}
		syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&a.scratch)), 0, 0)
	}
	return false
}

// thaw lets all threads go on. A thread that gets the signal later leaves the
// handler at once.
func thaw(a *arena) {
	store(&a.active, 0)
	add(&a.gen)
	syscall.RawSyscall(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(&a.gen)),
		1|128 /* FUTEX_WAKE_PRIVATE */, 1<<30)
}

// install sets the handler, at every fork, because other code may have set
// another. The handler stays, because the signal may still be pending for a
// thread, and would end the process without a handler.
func install(a *arena) result {
	for {
		_, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, freezeSignal, 0,
			uintptr(unsafe.Pointer(&a.oldAction)), 8, 0, 0)
		if e != 0 {
			return result{code: failedAction, errno: e}
		}
		switch a.oldAction.handler {
		case a.newAction.handler:
			return result{}
		case 0, 1: // SIG_DFL, SIG_IGN
			if _, _, e = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, freezeSignal,
				uintptr(unsafe.Pointer(&a.newAction)), 0, 8, 0, 0); e != 0 {
				return result{code: failedAction, errno: e}
			}
		default:
			return result{code: foreignHandler, a: uint64(a.oldAction.handler)}
		}
	}
}

// frozen returns the number of slots of this attempt.
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

// slots returns the number of slots that were taken. Not all need to be valid.
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

// sleeps reports whether a thread that was sent the signal sleeps, or is a
// zombie (proc_pid_stat(5): "1234 (name) S").
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
		fd, _, e := syscall.RawSyscall6(syscall.SYS_OPENAT, a.taskDir,
			uintptr(unsafe.Pointer(&a.scratch[pos])), flags, 0, 0, 0)
		if e != 0 {
			continue
		}
		size, _, e := syscall.RawSyscall(syscall.SYS_READ, fd,
			uintptr(unsafe.Pointer(&a.text)), textSize)
		syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
		if e != 0 {
			continue
		}
		// the name can have one too, but nothing after the name
		for size > 0 && a.text[size-1] != ')' {
			size--
		}
		if state := a.text[size+1]; size > 0 && (state == 'S' || state == 'Z') {
			return true
		}
	}
	return false
}

// threadCount returns the kernel's count of the process's threads. The links of
// /proc/self/task are two more.
func threadCount(a *arena) (int, syscall.Errno) {
	st := (*syscall.Stat_t)(unsafe.Pointer(&a.text))
	_, _, e := syscall.RawSyscall(syscall.SYS_FSTAT, a.taskDir, uintptr(unsafe.Pointer(st)), 0)
	return int(st.Nlink) - 2, e
}

// list reads the numbers among the names in a directory. It returns how many
// there are, or -1 if they are more than max.
func list(a *arena, dir uintptr, out *uint32, max int) (int, syscall.Errno) {
	if _, _, e := syscall.RawSyscall(syscall.SYS_LSEEK, dir, 0, 0); e != 0 {
		return 0, e
	}
	n := 0
	for {
		size, _, e := syscall.RawSyscall(syscall.SYS_GETDENTS64, dir,
			uintptr(unsafe.Pointer(&a.text)), textSize)
		if e != 0 {
			return 0, e
		}
		if size == 0 {
			return n, 0
		}
		for pos := uintptr(0); pos < size; {
			// struct linux_dirent64 of getdents(2): ino, off, then reclen at
			// 16, type, the name at 19.
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

// clock returns CLOCK_MONOTONIC in nanoseconds.
func clock(a *arena) int64 {
	ts := (*syscall.Timespec)(unsafe.Pointer(&a.scratch))
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC,
		uintptr(unsafe.Pointer(ts)), 0)
	return ts.Sec*1e9 + ts.Nsec
}
