//go:build unix && !(linux && (amd64 || arm64) && !race && !msan && !asan)

package transport

import "syscall"

// The race detector and the sanitizers see the system calls of package syscall only.

func readSocket(fd int, p []byte) (int, error)  { return syscall.Read(fd, p) }
func writeSocket(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }
