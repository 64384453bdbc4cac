//go:build unix && !(linux && (amd64 || arm64) && !race && !msan && !asan)

package transport

import "syscall"

// The race detector and its like learn of a system call from package syscall.

func readNow(fd int, p []byte) (int, error)  { return syscall.Read(fd, p) }
func writeNow(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }
