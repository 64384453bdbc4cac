package osproc

import (
	"os"

	"golang.org/x/sys/unix"
)

// A child has a mark from its start until it takes its ticket. A process without a
// ticket and with a mark is a child that has lost its ticket. The mark is on the open
// file of the child's stdin, so it survives an exec and a cleared environment, and
// the parent can remove it, too. It is a signal number (F_SETSIG in fcntl(2)) that the
// kernel would send if the file were opened for signals. Nothing else looks at the
// number.
const mark = 61

// MarkedNull returns the null device, opened with a mark.
func MarkedNull() (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, NoNullDevice(err)
	}
	setMark(f, mark)
	return f, nil
}

// MarkedPipe returns the read end of a pipe with a content, which ends after it. The
// content must be shorter than a page. The read end has a mark.
func MarkedPipe(content []byte) (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, ExplainScarcity(os.NewSyscallError("pipe2", err))
	}
	defer unix.Close(p[1])
	r := os.NewFile(uintptr(p[0]), "ticket")
	if _, err := unix.Write(p[1], content); err != nil {
		r.Close()
		return nil, os.NewSyscallError("write", err)
	}
	setMark(r, mark)
	return r, nil
}

// Unmark removes the mark of f, also for all processes that have f.
func Unmark(f *os.File) { setMark(f, 0) }

func setMark(f *os.File, signal int) {
	if conn, err := f.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETSIG, signal) })
	}
}

// StdinIsMarked reports whether this process's stdin has a mark.
func StdinIsMarked() bool {
	signal, err := unix.FcntlInt(0, unix.F_GETSIG, 0)
	return err == nil && signal == mark
}

// UnmarkStdin removes the mark of this process's stdin.
func UnmarkStdin() {
	if StdinIsMarked() {
		unix.FcntlInt(0, unix.F_SETSIG, 0)
	}
}

// ReadMarkedStdin returns the content of stdin if it comes from MarkedPipe, and
// removes the mark.
func ReadMarkedStdin() (content []byte) {
	var st unix.Stat_t
	if !StdinIsMarked() || unix.Fstat(0, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil
	}
	UnmarkStdin()
	content = make([]byte, os.Getpagesize())
	n := 0
	for n < len(content) {
		m, err := unix.Read(0, content[n:])
		if err == unix.EINTR {
			continue
		}
		if m <= 0 {
			break
		}
		n += m
	}
	return content[:n]
}
