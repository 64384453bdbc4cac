//go:build amd64 || arm64

package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// waitingSignals end the wait for a request. They do not include SIGURG, which
// preempts goroutines, because the forking one runs alone. They do not include
// SIGCHLD either, because a child can be waited for when the threads run again.
var waitingSignals = ^uint64(0) &^ (1<<(syscall.SIGURG-1) | 1<<(syscall.SIGCHLD-1))

// setRequest puts a request into the arena. The kernel writes to Room and
// Control.
func setRequest(a *arena, o *Options) error {
	a.request = request{}
	r := o.Request
	if r == nil {
		return nil
	}
	r.Size, r.ControlSize, r.Idle = 0, 0, false
	if len(r.Room) < 4 || len(r.Control) < unix.SizeofCmsghdr || len(o.Keep) > 0 ||
		max(r.Counts[0], r.Counts[1]) > maxMoves {
		return &Refused{Reason: "a request without room, with other files, or with too many"}
	}
	p := &a.request
	p.wanted, p.socket, p.counts = true, uintptr(r.Socket), r.Counts
	p.iov = [2]uintptr{uintptr(unsafe.Pointer(&r.Room[0])), uintptr(len(r.Room))}
	p.header = msghdr{
		iov: uintptr(unsafe.Pointer(&p.iov)), iovLen: 1,
		control: uintptr(unsafe.Pointer(&r.Control[0])),
	}
	p.controlRoom = uintptr(len(r.Control))
	p.until = clock(a) + int64(r.Patience)
	return nil
}

// watchSignals makes the signalfd show the signals that this thread takes. A
// signal that it always blocks, possibly since the program's start, is blocked
// in all threads. It would stay pending and end each wait.
func watchSignals(a *arena) result {
	p := &a.request
	p.signals = waitingSignals &^ a.oldMask
	if _, _, e := syscall.RawSyscall6(syscall.SYS_SIGNALFD4, a.signals,
		uintptr(unsafe.Pointer(&p.signals)), 8, 0, 0, 0); e != 0 {
		return result{code: disarmed}
	}
	return result{}
}

// awaitRequest waits for a request with all threads frozen, and receives it.
// All threads block signals, so a signal for the process stays pending and is
// handled after the thaw.
func awaitRequest(a *arena) result {
	p := &a.request
	p.size, p.header.controlLen, p.header.flags = 0, p.controlRoom, 0
	left := p.until - clock(a)
	if left <= 0 {
		return result{code: idle}
	}
	p.timeout = syscall.Timespec{Sec: left / 1e9, Nsec: left % 1e9}
	p.polls[0] = unix.PollFd{Fd: int32(p.socket), Events: unix.POLLIN}
	p.polls[1] = unix.PollFd{Fd: int32(a.signals), Events: unix.POLLIN}
	polls, timeout := uintptr(unsafe.Pointer(&p.polls)), uintptr(unsafe.Pointer(&p.timeout))
	n, _, e := syscall.RawSyscall6(syscall.SYS_PPOLL, polls,
		uintptr(len(p.polls)), timeout, 0, 0, 0)
	switch {
	case e == 0 && n == 0:
		return result{code: idle}
	case e != 0 || p.polls[0].Revents == 0 || p.polls[1].Revents != 0:
		return result{code: disarmed}
	}
	const flags = unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC
	n, _, e = syscall.RawSyscall(syscall.SYS_RECVMSG, p.socket,
		uintptr(unsafe.Pointer(&p.header)), flags)
	if e != 0 || n == 0 { // the caller receives again
		return result{code: disarmed}
	}
	p.size = int(n)
	if n < 4 || n != 4+uintptr(*at32(p.iov[0])) ||
		p.header.flags&unix.MSG_CTRUNC != 0 || !takeFiles(a) {
		return result{code: disarmed}
	}
	return result{}
}

// forgetRequest erases a request whose child was reported, and closes its
// descriptors.
func forgetRequest(a *arena) {
	p := &a.request
	for i := range uintptr(p.size) {
		*at8(p.iov[0] + i) = 0
	}
	for i := range a.nMoves {
		syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(a.moves[i].from), 0, 0)
	}
	a.nFDs -= a.nMoves
	a.nMoves, p.size = 0, 0
	if a.pidfd >= 0 {
		syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(a.pidfd), 0, 0)
	}
	p.served++
}

// takeFiles makes moves of a request's descriptors (cmsg(3)), and reports
// whether they are as required. They were not open when the frozen section
// listed this process's descriptors.
func takeFiles(a *arena) bool {
	p := &a.request
	if p.header.controlLen < unix.SizeofCmsghdr {
		return false
	}
	// struct cmsghdr: length, level, type.
	length, kind := uintptr(*at(p.header.control)), *at(p.header.control + 8)
	if kind != unix.SOL_SOCKET|unix.SCM_RIGHTS<<32 || length > p.header.controlLen ||
		length < unix.SizeofCmsghdr {
		return false
	}
	n := int(length-unix.SizeofCmsghdr) / 4
	if n != p.counts[0] && n != p.counts[1] || a.nFDs+n > maxFiles {
		return false
	}
	limit := (*syscall.Rlimit)(unsafe.Pointer(&a.scratch))
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, 0,
		uintptr(unsafe.Pointer(limit)), 0, 0)
	if e != 0 {
		return false
	}
	for i := range n {
		fd := *at32(p.header.control + unix.SizeofCmsghdr + uintptr(i)*4)
		if fd < 3 || uint64(fd)+1 >= limit.Cur {
			return false
		}
		m := &a.moves[i]
		m.from, m.to = fd, fd
		if i < 3 {
			m.to = uint32(i)
		}
		a.fds[a.nFDs+i] = fd
	}
	a.nMoves = n
	a.nFDs += n
	return true
}
