package refork

import "syscall"

// Parts of a signal frame. It has 128 bytes of siginfo, then struct ucontext, with the
// alternate stack's address at 16. At 176 struct sigcontext begins, with the address of a
// fault, the registers R0 to R30, SP and PC.
const (
	frameAltStack = 128 + 16
	frameR0       = 128 + 176 + 8
	frameR1       = frameR0 + 1*8
	frameR8       = frameR0 + 8*8
	frameR28      = frameR0 + 28*8
	frameSP       = frameR0 + 31*8
	framePC       = frameR0 + 32*8
)

// frameStack is where rt_sigreturn expects the stack pointer: at the frame.
const frameStack = 0

// setRestorer does nothing, because the kernel has a restorer of its own.
func setRestorer(*sigaction) {}

// tlsMark returns the thread pointer itself. The Go runtime uses it with cgo only. Without
// cgo no thread sets it, and a new thread has its creator's. So all have the value that the
// program began with: 0, or the dynamic linker's in a position independent program. With
// cgo each thread has another one, which the C library has made.
func tlsMark(tls, _ uintptr) uintptr { return tls }

const maxTLSMark = ^uintptr(0) // lookAtThread cannot tell, but findThreadLayout

// findVDSO finds the kernel's code in this process (vdso(7)).
func findVDSO(l *layout) error {
	list, err := mappings()
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.name == "[vdso]" {
			l.vdso = segment{m.from, m.to}
		}
	}
	return nil
}

// findM finds g and m of a frozen thread. It returns false for a thread of cgo.
//
// Go code and its assembly keep g in R28, in all places where signals are not blocked. The
// kernel's own code can use R28 meanwhile. So before the runtime calls that, it puts g into
// the lowest word of the alternate stack (sigFetchG in signal_unix.go of the Go runtime).
func findM(a *arena, s *slot) bool {
	s.g, s.m = 0, 0
	if s.tls != a.layout.tls {
		return false
	}
	g := *at(s.frame + frameR28)
	if a.layout.vdso.holds(*at(s.frame + framePC)) {
		stack := uintptr(*at(s.frame + frameAltStack))
		if stack == 0 {
			return true
		}
		g = *at(stack)
	}
	if g != 0 && g%8 == 0 {
		s.g = uintptr(g)
		s.m = uintptr(*at(s.g + offsetM))
	}
	return true
}

// polls reports whether a thread was in epoll_pwait on the runtime's poller. A signal ends
// this call with EINTR, which is then in the register of the first argument. The runtime
// polls on a thread's g0, the first word of its m, and goroutines never run there.
func polls(_ *arena, s *slot) bool {
	return *at(s.frame + frameR8) == syscall.SYS_EPOLL_PWAIT &&
		syscall.Errno(-*at(s.frame + frameR0)) == syscall.EINTR &&
		*at(s.m) == uint64(s.g)
}

// notesID reports whether a thread may have asked for its id, to write it to its record.
// The runtime does so in minit, when it starts a thread. In the child the thread would go on
// and write the id of the parent's thread, and no preemption signal would reach it. The id is
// in R0 first, then in the second word of the stack, and then in R1.
func notesID(s *slot) bool {
	const syscallInstruction = 0xd4000001
	tid, pc := uint64(s.tid), uintptr(*at(s.frame + framePC))
	if *at32(pc) == syscallInstruction {
		return false // it is made again, and R0 has its first argument
	}
	if *at(s.frame + frameR0) == tid {
		return true
	}
	// After other system calls the registers have what was there before, possibly for long.
	return *at32(pc - 4) != syscallInstruction &&
		(*at(s.frame + frameR1) == tid || *at32(uintptr(*at(s.frame + frameSP)) + 8) == s.tid)
}
