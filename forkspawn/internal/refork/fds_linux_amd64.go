package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// moveFiles puts the descriptors that the child gets in their places.
func moveFiles(a *arena) {
	// First those of Fork itself, so that the child has free numbers, whatever the limit.
	syscall.RawSyscall(syscall.SYS_CLOSE, a.taskDir, 0, 0)
	syscall.RawSyscall(syscall.SYS_CLOSE, a.fdDir, 0, 0)
	syscall.RawSyscall(syscall.SYS_CLOSE, a.fdInfo, 0, 0)
	syscall.RawSyscall(syscall.SYS_CLOSE, a.signals, 0, 0)
	for i := range a.nMoves {
		m := &a.moves[i]
		if !m.first {
			continue
		}
		r, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(m.from), unix.F_DUPFD_CLOEXEC, a.dupMin)
		if e != 0 {
			die("fcntl(F_DUPFD_CLOEXEC)\n", e)
		}
		m.from = uint32(r)
	}
	for i := range a.nMoves {
		m := &a.moves[i]
		flags := uintptr(0)
		if m.to > 2 {
			flags = unix.O_CLOEXEC
		}
		var e syscall.Errno
		if m.from != m.to {
			_, _, e = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(m.from), uintptr(m.to), flags)
		} else {
			_, _, e = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(m.from), unix.F_SETFD, flags/unix.O_CLOEXEC)
		}
		if e != 0 {
			die("dup3\n", e)
		}
		if m.first {
			syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(m.from), 0, 0)
		}
	}
}

// poisonFiles replaces all other descriptors by one end of a socket pair whose other end is closed: reading
// from it is end-of-file, writing to it an error. They are not closed, as their numbers would be used
// again, and the Go objects that own them, which the child has inherited, would close what is not theirs.
func poisonFiles(a *arena) {
	for i := range a.nFDs {
		fd := a.fds[i]
		if isKept(a, fd) {
			continue
		}
		_, _, e := syscall.RawSyscall(syscall.SYS_DUP3, a.poison, uintptr(fd), unix.O_CLOEXEC)
		if e == syscall.EBADF {
			// A number above the limit of open files, inherited or older than the limit, is not used again.
			_, _, e = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0)
		}
		if e != 0 {
			die("dup3 of the poison\n", e)
		}
	}
}

func isKept(a *arena, fd uint32) bool {
	switch uintptr(fd) {
	case 0, 1, 2, a.poison, uintptr(a.layout.epoll), uintptr(a.layout.eventfd):
		return true
	case a.taskDir, a.fdDir, a.fdInfo, a.signals:
		return true // closed by now
	}
	for i := range a.nMoves {
		if a.moves[i].to == fd {
			return true
		}
	}
	for i := range a.nKeep {
		if a.keep[i] == fd {
			return true
		}
	}
	return false
}

// renewPoller gives the child a poller of its own: the old one is the parent's, and what the parent does to it
// would be seen here. The numbers stay, as the runtime knows them.
func renewPoller(a *arena) {
	epoll, _, e := syscall.RawSyscall(syscall.SYS_EPOLL_CREATE1, unix.EPOLL_CLOEXEC, 0, 0)
	if e != 0 {
		die("epoll_create1\n", e)
	}
	replace(epoll, uintptr(a.layout.epoll))
	event, _, e := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK, 0)
	if e != 0 {
		die("eventfd2\n", e)
	}
	replace(event, uintptr(a.layout.eventfd))
	if e = watch(a, a.layout.eventfd, unix.EPOLLIN, uint64(a.layout.eventfdVar)); e != 0 {
		die("epoll_ctl of the eventfd\n", e)
	}
	// A wake-up may have been in flight: the runtime sends no other until it has seen that one.
	*(*uint64)(unsafe.Pointer(&a.scratch)) = 1
	_, _, e = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(a.layout.eventfd), uintptr(unsafe.Pointer(&a.scratch)), 8)
	if e != 0 {
		die("write to the eventfd\n", e)
	}
	// Watched again, what is poison now reports end-of-file, and wakes the goroutines that wait for it.
	for i := range a.nPolled {
		p := &a.polled[i]
		e := watch(a, p.fd, p.events, p.data)
		// EBADF: closed without being removed, another descriptor of the file being open still. EEXIST: such a one
		// whose number is used again. EPERM: it was moved here, and is a file that needs no poller.
		if e != 0 && e != syscall.EBADF && e != syscall.EEXIST && e != syscall.EPERM {
			die("epoll_ctl\n", e)
		}
	}
}

func replace(from, to uintptr) {
	if _, _, e := syscall.RawSyscall(syscall.SYS_DUP3, from, to, unix.O_CLOEXEC); e != 0 {
		die("dup3 of the poller\n", e)
	}
	syscall.RawSyscall(syscall.SYS_CLOSE, from, 0, 0)
}

func watch(a *arena, fd, events uint32, data uint64) syscall.Errno {
	// struct epoll_event is packed on amd64.
	*(*[3]uint32)(unsafe.Pointer(&a.scratch)) = [3]uint32{events, uint32(data), uint32(data >> 32)}
	epoll, event := uintptr(a.layout.epoll), uintptr(unsafe.Pointer(&a.scratch))
	_, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_ADD, uintptr(fd), event, 0, 0)
	return e
}
