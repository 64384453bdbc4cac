package refork

import "syscall"

// Registers in a signal frame. It begins with 8 bytes of the restorer's address and 40
// bytes of struct ucontext. Then struct sigcontext has R8 to R15, RDI, RSI, RBP, RBX, RDX,
// RAX, RCX, RSP and RIP.
const (
	frameRDI = 48 + 8*8
	frameRAX = 48 + 13*8
	frameRCX = 48 + 14*8
	frameRSP = 48 + 15*8
	frameRIP = 48 + 16*8
)

// frameStack is where rt_sigreturn expects the stack pointer: past the restorer's address.
const frameStack = 8

// setRestorer sets what the kernel needs on amd64. The handler does not return to it.
func setRestorer(action *sigaction) {
	action.flags |= saRestorer
	action.restorer = restorerPC()
}

// In assembly.

func restorerPC() uintptr

// tlsMark returns the distance from a thread's m to its FS base. Without cgo the FS base
// lies in the m. With cgo it is the C library's.
func tlsMark(tls, m uintptr) uintptr { return tls - m }

const maxTLSMark = searchRand - 1

// findVDSO is not needed here.
func findVDSO(*layout) error { return nil }

// findM is not needed here, because the handler has found g and m at the FS base.
func findM(*arena, *slot) bool { return true }

// polls reports whether a thread was in epoll_pwait on the runtime's poller. A
// signal ends this call with EINTR, and its first argument is still in the
// register.
func polls(a *arena, s *slot) bool {
	return *at(s.frame + frameRDI) == uint64(a.layout.epoll) &&
		syscall.Errno(-*at(s.frame + frameRAX)) == syscall.EINTR
}

// notesID reports whether a thread may have asked for its id, to write it to its record.
// The runtime does so in minit, when it starts a thread. In the child the thread would go on
// and write the id of the parent's thread, and no preemption signal would reach it. The id is
// in RAX first, then in the topmost word of the stack, and then in RCX.
func notesID(s *slot) bool {
	const syscallInstruction = 0x050f // a system call that is made again has its number in RAX
	tid := uint64(s.tid)
	return *at(s.frame + frameRAX) == tid &&
		uint16(*at32(uintptr(*at(s.frame + frameRIP)))) != syscallInstruction ||
		*at(s.frame + frameRCX) == tid || *at32(uintptr(*at(s.frame + frameRSP))) == s.tid
}
