//go:build amd64 || arm64

package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// moveFiles gives the child's descriptors their numbers.
func moveFiles(a *arena) {
	// Those of Fork itself go first, so that the child has free numbers at any
	// limit.
	syscall.RawSyscall(syscall.SYS_CLOSE, a.taskDir, 0, 0)
	syscall.RawSyscall(syscall.SYS_CLOSE, a.fdDir, 0, 0)
	syscall.RawSyscall(syscall.SYS_CLOSE, a.fdInfo, 0, 0)
	syscall.RawSyscall(syscall.SYS_CLOSE, a.signals, 0, 0)
	for i := range a.nMoves {
		m := &a.moves[i]
		var e syscall.Errno
		if m.from != m.to {
			_, _, e = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(m.from), uintptr(m.to), 0)
		} else {
			_, _, e = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(m.from),
				unix.F_SETFD, unix.FD_CLOEXEC)
		}
		if e != 0 {
			die("dup3\n", e)
		}
	}
}

// replaceFiles replaces all other descriptors. If it closed them, their numbers
// would be used again. Inherited Go objects still own the numbers, and would close
// the new descriptors.
func replaceFiles(a *arena) {
	for i := range a.nFDs {
		if fd := a.fds[i]; !isKept(a, fd) {
			replaceFile(a, uintptr(fd), a.kinds[i])
		}
	}
}

func replaceFile(a *arena, fd uintptr, k kind) {
	if k == kept {
		syscall.RawSyscall(syscall.SYS_FCNTL, fd, unix.F_SETFD, unix.FD_CLOEXEC)
		return
	}
	from := a.poison
	if k != deadEnd {
		if stand, e := standIn(a, k, fd); e == 0 {
			from = stand
		}
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_DUP3, from, fd, unix.O_CLOEXEC)
	if e == syscall.EBADF {
		// A number above the limit of open files is not used again.
		_, _, e = syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
	}
	if e != 0 {
		die("dup3\n", e)
	}
	if from != a.poison {
		syscall.RawSyscall(syscall.SYS_CLOSE, from, 0, 0)
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

// renewPoller gives the child a poller of its own, because parent and child
// share the old one. The numbers stay, because the runtime uses them.
func renewPoller(a *arena) {
	epoll, _, e := syscall.RawSyscall(syscall.SYS_EPOLL_CREATE1, unix.EPOLL_CLOEXEC, 0, 0)
	if e != 0 {
		die("epoll_create1\n", e)
	}
	replace(epoll, uintptr(a.layout.epoll))
	event, _, e := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0,
		unix.EFD_CLOEXEC|unix.EFD_NONBLOCK, 0)
	if e != 0 {
		die("eventfd2\n", e)
	}
	replace(event, uintptr(a.layout.eventfd))
	if e = watch(a, a.layout.eventfd, unix.EPOLLIN, uint64(a.layout.eventfdVar)); e != 0 {
		die("epoll_ctl of the eventfd\n", e)
	}
	// A wake-up may have been pending, and the runtime sends no other before it
	// has seen that one.
	*(*uint64)(unsafe.Pointer(&a.scratch)) = 1
	_, _, e = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(a.layout.eventfd),
		uintptr(unsafe.Pointer(&a.scratch)), 8)
	if e != 0 {
		die("write to the eventfd\n", e)
	}
	// Dead ends now report EOF and wake the goroutines that wait.
	for i := range a.nPolled {
		p := &a.polled[i]
		e := watch(a, p.fd, p.events, p.data)
		// EBADF is a number that was closed while another descriptor of the
		// same file is open. EEXIST is the same, with the number in use again.
		// EPERM is a moved file without support for polls.
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
	// The eight bytes from Fd on are the data.
	*(*unix.EpollEvent)(unsafe.Pointer(&a.scratch)) = unix.EpollEvent{
		Events: events, Fd: int32(data), Pad: int32(data >> 32)}
	epoll, event := uintptr(a.layout.epoll), uintptr(unsafe.Pointer(&a.scratch))
	_, _, e := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_ADD,
		uintptr(fd), event, 0, 0)
	return e
}
