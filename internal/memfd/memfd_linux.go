package memfd

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Create returns the descriptor of a new, empty file in memory. It can be sealed, and is
// closed on exec. The name is for /proc only. The error is an *os.SyscallError.
func Create(name string) (fd int, err error) {
	fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3 does not know MFD_NOEXEC_SEAL
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	return fd, nil
}

// Seal adds seals, such as unix.F_SEAL_SHRINK. The error is an *os.SyscallError.
func Seal(fd, seals int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	return os.NewSyscallError("fcntl", err)
}
