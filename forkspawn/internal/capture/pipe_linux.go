package capture

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipe returns a pipe for a child's stream; see pipeFiles.
func pipe(own int) (r, w *os.File, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return pipeFiles(p, own)
}

// replace makes fd a copy of with.
func replace(fd, with int) { unix.Dup3(with, fd, 0) }
