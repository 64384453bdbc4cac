//go:build unix

package session

import (
	"os"

	"golang.org/x/sys/unix"
)

// Duplicate returns another descriptor of a file.
func Duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := conn.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3)
	}); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// errnoOf returns the error of a name such as ENOENT, or nil. The number can be
// another one on another system.
func errnoOf(name string) error {
	for _, e := range []unix.Errno{
		unix.ENOENT, unix.EACCES, unix.EPERM, unix.ENOEXEC, unix.ENOTDIR, unix.ELOOP,
		unix.E2BIG, unix.ENOMEM, unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.ETXTBSY,
		unix.EISDIR, unix.ENAMETOOLONG, unix.EIO, unix.ENOSPC, unix.EROFS, unix.EDQUOT,
	} {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return nil
}
