//go:build unix && !(linux && (amd64 || arm64) && !race && !msan && !asan)

package transport

import "syscall"

// The race detector and its like learn of a system call from package syscall.

func readNow(fd int, p []byte) (int, error) { return syscall.Read(fd, p) }
func peekNow(fd int, p []byte) (int, error) {
	n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_PEEK)
	return n, err
}
func writeNow(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }
