//go:build unix

package blob

import (
	"os"

	"golang.org/x/sys/unix"
)

// open maps a duplicate of the descriptor, because the caller keeps its own.
func open(file *os.File) (*Blob, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	if cerr := raw.Control(func(own uintptr) {
		if err = checkSealed(int(own)); err != nil {
			return
		}
		fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
		err = os.NewSyscallError("fcntl", err)
	}); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, err
	}
	return mapped(os.NewFile(uintptr(fd), file.Name()))
}

// mapReadOnly maps the whole file. The mapping is private, because Linux before 6.7
// refuses a shared one of a file with F_SEAL_WRITE. All processes have the same pages
// nevertheless, because nobody writes.
func mapReadOnly(f *os.File, size int64) ([]byte, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	return b, os.NewSyscallError("mmap", err)
}

func unmap(b []byte) error { return os.NewSyscallError("munmap", unix.Munmap(b)) }
