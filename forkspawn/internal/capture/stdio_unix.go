//go:build unix

package capture

import (
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// withoutSIGPIPE returns w, or a replacement if w is this process's stdout or
// stderr. An [os.File] ends the process with SIGPIPE when their reader has gone
// (package os/signal). The replacement returns EPIPE.
func withoutSIGPIPE(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return w
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return w
	}
	std := false
	conn.Control(func(fd uintptr) { std = fd == 1 || fd == 2 })
	if !std {
		return w
	}
	return stdWriter{conn}
}

type stdWriter struct{ conn syscall.RawConn }

func (w stdWriter) Write(p []byte) (n int, err error) {
	// RawConn.Write holds the file's own lock. So lines of this process stay whole,
	// too.
	cerr := w.conn.Write(func(fd uintptr) bool {
		n, err = writeAll(int(fd), p)
		return true
	})
	if err == nil {
		err = cerr
	}
	return n, err
}

// writeAll writes p to a descriptor that may be non-blocking.
func writeAll(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(fd, p[n:])
		n += max(0, m)
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
		default:
			return n, os.NewSyscallError("write", err)
		}
	}
	return n, nil
}

// SurviveReaders makes this process survive a write to a stdout or stderr without a
// reader. Usually the Go runtime raises SIGPIPE then (os/signal).
func SurviveReaders() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // nobody receives, so it is ignored
}

// closing is how long the kernel may take to close the pipes of a dead parent, after the
// socket that shows its death. A pipe with another reader delays ReplaceBroken so long.
// A test sets closing.
var closing = 200 * time.Millisecond

// ReplaceBroken replaces this process's stdout and stderr by the null device if
// nobody reads them any more. Programs that it starts get the null device, too.
// The parent has just died.
func ReplaceBroken() {
	until := time.Now().Add(closing)
	for _, file := range []*os.File{os.Stdout, os.Stderr} {
		conn, err := file.SyscallConn()
		if err != nil {
			continue
		}
		conn.Control(func(fd uintptr) {
			var stat unix.Stat_t
			isPipe := unix.Fstat(int(fd), &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO
			fds := []unix.PollFd{{Fd: int32(fd)}} // POLLERR is always reported
			n, err := unix.Poll(fds, 0)
			for isPipe && (n == 0 || err == unix.EINTR) && time.Now().Before(until) {
				n, err = unix.Poll(fds, 10)
			}
			if n != 1 || err != nil || fds[0].Revents&unix.POLLERR == 0 {
				return
			}
			null, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return
			}
			replace(int(fd), null)
			unix.Close(null)
		})
	}
}
