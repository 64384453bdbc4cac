package forkspawn

import (
	"os"
	"syscall"
)

// pipe returns a pipe for a child's stream; see pipeFiles.
func pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return pipeFiles(p)
}
