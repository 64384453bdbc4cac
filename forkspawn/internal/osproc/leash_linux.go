package osproc

import (
	"os"

	"golang.org/x/sys/unix"
)

// leash lets the kernel kill a process group when this process ends, however it
// ends. It is a pipe of which this process alone has both ends. Each end sends
// SIGKILL to the group when the other one is closed (O_ASYNC, F_SETOWN and F_SETSIG
// in fcntl(2)). The kernel closes the ends of a dead process one after the other.
//
// The owner is the group itself and not its number, so another group with the same
// number gets nothing. The kernel does not signal processes of other users.
type leash struct{ ends [2]int }

// newLeash returns a leash that holds no group yet.
func newLeash() (*leash, error) {
	var l leash
	if err := unix.Pipe2(l.ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	for _, fd := range l.ends {
		unix.FcntlInt(uintptr(fd), unix.F_SETSIG, int(unix.SIGKILL))
		unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK|unix.O_ASYNC)
	}
	return &l, nil
}

// descriptors returns the ends of the pipe, or zeros without a leash.
func (l *leash) descriptors() (ends [2]int) {
	if l != nil {
		ends = l.ends
	}
	return ends
}

// hold makes the group the owner.
func (l *leash) hold(group int) {
	if l != nil {
		for _, fd := range l.ends {
			unix.FcntlInt(uintptr(fd), unix.F_SETOWN, -group)
		}
	}
}

// close kills what is left of the group.
func (l *leash) close() {
	if l != nil {
		for _, fd := range l.ends {
			unix.Close(fd)
		}
	}
}
