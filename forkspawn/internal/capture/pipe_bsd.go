//go:build unix && !linux

package capture

import (
	"os"
	"syscall"
)

// pipe returns a pipe for a child's stream; see pipeFiles. Not all of these systems
// have pipe2.
func pipe(own int) (r, w *os.File, err error) {
	var p [2]int
	syscall.ForkLock.RLock()
	if err = syscall.Pipe(p[:]); err == nil {
		syscall.CloseOnExec(p[0])
		syscall.CloseOnExec(p[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("pipe", err)
	}
	return pipeFiles(p, own)
}

// replace makes fd a copy of with.
func replace(fd, with int) { syscall.Dup2(with, fd) }
