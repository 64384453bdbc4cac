//go:build unix

package uds

import (
	"net"
	"os"
	"syscall"
)

// Pair returns the two ends of a connection within this process: socketpair(2), close-on-exec. It needs no
// name and no file. The error is the system's, an *os.SyscallError: EMFILE, ENFILE, ENOMEM.
//
// On platforms without socket pairs it is net.Pipe.
func Pair() (a, b net.Conn, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conn, ferr := net.FileConn(f) // with a descriptor of its own
		f.Close()
		ends[i] = conn
		if ferr != nil && err == nil {
			err = ferr
		}
	}
	if err != nil {
		for _, conn := range ends {
			if conn != nil {
				conn.Close()
			}
		}
		return nil, nil, err
	}
	return ends[0], ends[1], nil
}
