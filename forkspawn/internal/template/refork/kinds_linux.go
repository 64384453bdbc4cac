//go:build amd64 || arm64

package refork

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kind is what a child gets in place of an open file of its parent. A child that
// shared all of them would take the parent's connections, signals and positions in
// files. Dead ends in their place would end programs, or keep them busy: a server
// stops at an error of accept, and a watcher of files reports errors in a loop.
type kind uint8

const (
	deadEnd    kind = iota // one end of a socket pair without its other end
	kept                   // the same open file
	reopened               // the same file or directory, opened again, at the same position
	listener               // one on which nobody calls
	datagrams              // a socket without an address, to which nobody sends
	inotify                // one without files to watch
	timer                  // one that is not set
	event                  // a counter of 0
	epoll                  // one without files
	unreadable             // a signalfd without signals
)

// kindOf looks at an open file, also with all threads frozen.
//
// Files without a right to write are opened again, so each child has a position of
// its own (/proc/self/fd in proc_pid_fd(5)). Logs are kept: each write to them
// appends, or goes to the position that all share. Other files, such as those of a
// database, end dead: nothing orders the writes of several children.
func kindOf(a *arena, fd uintptr) kind {
	// AT_STATX_DONT_SYNC: a file server that does not answer must not hold it up
	st := (*unix.Statx_t)(unsafe.Pointer(&a.text))
	a.text[textSize-1] = 0 // an empty path
	_, _, e := syscall.RawSyscall6(unix.SYS_STATX, fd, uintptr(unsafe.Pointer(&a.text[textSize-1])),
		unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE,
		uintptr(unsafe.Pointer(st)), 0)
	flags, _, e2 := syscall.RawSyscall(syscall.SYS_FCNTL, fd, unix.F_GETFL, 0)
	if e != 0 || e2 != 0 {
		return deadEnd
	}
	access := flags & unix.O_ACCMODE
	switch mode := uint32(st.Mode) & syscall.S_IFMT; {
	case flags&unix.O_PATH != 0:
		return kept
	case mode == syscall.S_IFDIR, mode == syscall.S_IFREG && access == unix.O_RDONLY:
		return reopened
	case mode == syscall.S_IFREG && (access == unix.O_WRONLY || flags&unix.O_APPEND != 0):
		return kept
	case mode == syscall.S_IFCHR && st.Rdev_major == 1: // /dev/null, /dev/urandom (mem(4))
		return kept
	case mode == syscall.S_IFSOCK && socketOption(a, fd, unix.SO_ACCEPTCONN) == 1:
		return listener
	case mode == syscall.S_IFSOCK && socketOption(a, fd, unix.SO_TYPE) == unix.SOCK_DGRAM:
		return datagrams
	case mode == 0: // an anonymous inode
		return anonymousKind(a, fd)
	}
	return deadEnd
}

func socketOption(a *arena, fd, option uintptr) uint32 {
	value := (*[2]uint32)(unsafe.Pointer(&a.scratch))
	*value = [2]uint32{0, 4}
	syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, option,
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&value[1])), 0)
	return value[0]
}

// anonymousKind reads the link of the descriptor in /proc/self/fd.
func anonymousKind(a *arena, fd uintptr) kind {
	path := linkOf(a, fd)
	n, _, e := syscall.RawSyscall6(syscall.SYS_READLINKAT, 0, path,
		uintptr(unsafe.Pointer(&a.text)), 64, 0, 0)
	if e != 0 {
		return deadEnd
	}
	switch {
	case textIs(a, n, "anon_inode:inotify"):
		return inotify
	case textIs(a, n, "anon_inode:[timerfd]"):
		return timer
	case textIs(a, n, "anon_inode:[eventfd]"):
		return event
	case textIs(a, n, "anon_inode:[eventpoll]"):
		return epoll
	case textIs(a, n, "anon_inode:[signalfd]"):
		return unreadable
	}
	return deadEnd
}

func textIs(a *arena, n uintptr, s string) bool {
	if n != uintptr(len(s)) {
		return false
	}
	for i := range len(s) {
		if a.text[i] != s[i] {
			return false
		}
	}
	return true
}

// linkOf writes "/proc/self/fd/N" to arena.scratch and returns its address.
func linkOf(a *arena, fd uintptr) uintptr {
	const folder = "/proc/self/fd/"
	pos := len(a.scratch) - 1
	a.scratch[pos] = 0
	for first := true; first || fd != 0; fd /= 10 {
		pos--
		a.scratch[pos] = byte(fd%10) + '0'
		first = false
	}
	pos -= len(folder)
	copy(a.scratch[pos:], folder)
	return uintptr(unsafe.Pointer(&a.scratch[pos]))
}

// standIn opens, in the child, the file for a descriptor. Its number is free after
// dup3 to the descriptor.
func standIn(a *arena, k kind, fd uintptr) (uintptr, syscall.Errno) {
	flags, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, fd, unix.F_GETFL, 0)
	if e != 0 {
		return 0, e
	}
	// O_NONBLOCK is the same number for all of these calls.
	how := flags&unix.O_NONBLOCK | unix.O_CLOEXEC
	var stand uintptr
	switch k {
	case reopened:
		const same = unix.O_DIRECTORY | unix.O_DIRECT | unix.O_NOATIME
		stand, _, e = syscall.RawSyscall6(syscall.SYS_OPENAT, 0, linkOf(a, fd),
			how|flags&same, 0, 0, 0)
		if e == 0 {
			at, _, _ := syscall.RawSyscall(syscall.SYS_LSEEK, fd, 0, unix.SEEK_CUR)
			syscall.RawSyscall(syscall.SYS_LSEEK, stand, at, unix.SEEK_SET)
		}
	case listener:
		// An address of the family alone has the kernel choose an abstract name
		// (unix(7)).
		stand, _, e = syscall.RawSyscall(syscall.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM|how, 0)
		*(*uint16)(unsafe.Pointer(&a.scratch)) = unix.AF_UNIX
		if e == 0 {
			_, _, e = syscall.RawSyscall(syscall.SYS_BIND, stand,
				uintptr(unsafe.Pointer(&a.scratch)), 2)
		}
		if e == 0 {
			_, _, e = syscall.RawSyscall(syscall.SYS_LISTEN, stand, 0, 0)
		}
	case datagrams:
		stand, _, e = syscall.RawSyscall(syscall.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM|how, 0)
	case inotify:
		stand, _, e = syscall.RawSyscall(syscall.SYS_INOTIFY_INIT1, how, 0, 0)
	case timer:
		stand, _, e = syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, unix.CLOCK_MONOTONIC, how, 0)
	case event:
		stand, _, e = syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, how, 0)
	case epoll:
		stand, _, e = syscall.RawSyscall(syscall.SYS_EPOLL_CREATE1, unix.EPOLL_CLOEXEC, 0, 0)
	case unreadable:
		*(*uint64)(unsafe.Pointer(&a.scratch)) = 0
		stand, _, e = syscall.RawSyscall6(syscall.SYS_SIGNALFD4, ^uintptr(0),
			uintptr(unsafe.Pointer(&a.scratch)), 8, how, 0, 0)
	}
	return stand, e
}

// DeadFiles returns the open files of this process that end dead in a child, by
// their links in /proc/self/fd (proc_pid_fd(5)). It leaves out 0, 1, 2, and own.
func (f *Forker) DeadFiles(own ...int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	links, err := descriptors()
	if err != nil {
		return nil
	}
	for _, c := range f.cgroup {
		own = append(own, c.fd)
	}
	if f.opened {
		own = append(own, int(f.a.poison))
	}
	var dead []string
	for fd, link := range links {
		if fd > 2 && !slices.Contains(own, fd) && kindOf(f.a, uintptr(fd)) == deadEnd {
			dead = append(dead, link)
		}
	}
	slices.Sort(dead)
	return dead
}
