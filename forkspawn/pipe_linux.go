package forkspawn

import (
	"os"
	"syscall"
)

// pipe returns a pipe whose read end is in the runtime's poller and whose write end blocks, as a child
// expects of its standard streams. (os.Pipe makes both ends non-blocking.)
func pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := syscall.SetNonblock(p[0], true); err != nil {
		syscall.Close(p[0])
		syscall.Close(p[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(p[0]), "child's output"), os.NewFile(uintptr(p[1]), "child's end"), nil
}
