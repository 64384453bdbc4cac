package forkspawn

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const fdDir = "/proc/self/fd"

const canExec = true

func sysProcAttr(attr *ProcessAttr, pidfd *int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: attr.OwnGroup, Pdeathsig: attr.ParentDeathSignal, PidFD: pidfd}
}

// thisProgram is the running program itself, even when its file has been replaced or deleted.
func thisProgram() (string, error) {
	const self = "/proc/self/exe"
	if _, err := os.Lstat(self); err == nil {
		return self, nil
	}
	path, err := programFromArgs()
	if err != nil {
		err = &ResourceError{"/proc, where this program finds its own file", "mount it, or set Command.Path", err}
	}
	return path, err
}

// handle is a pidfd in the runtime's poller: waiting costs a goroutine and no thread. The zero handle
// is for kernels without: waiting costs a thread then.
type handle struct {
	file *os.File
	conn syscall.RawConn
}

func newHandle(_, pidfd int) handle {
	if pidfd < 0 {
		return handle{}
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return handle{}
	}
	file := os.NewFile(uintptr(pidfd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return handle{}
	}
	return handle{file, conn}
}

// wait first waits until the process is a zombie, which takes no lock, and then ends what is left of its
// group and takes its status, which takes no time.
func (p *OSProcess) wait() ExitStatus {
	zombie := p.handle.awaitEnd(p.pid)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ownGroup && zombie { // whose number nobody else can have
		syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	p.reaped = true
	return p.handle.reap(p.pid)
}

// awaitEnd returns true when the process is a zombie, and false when somebody else has reaped it.
func (h handle) awaitEnd(pid int) bool {
	if h.conn != nil {
		done, zombie := false, false
		h.conn.Read(func(fd uintptr) bool {
			var info unix.Siginfo
			err := waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
			zombie = err == nil && tellsEnd(&info)
			done = zombie || err == unix.ECHILD
			return done || err != nil
		})
		if done {
			return zombie
		}
	}
	// No pidfd, no poller, or a kernel without P_PIDFD (before 5.4): wait in a thread.
	for {
		var info unix.Siginfo
		if waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT) != nil {
			return false
		}
		if tellsEnd(&info) {
			return true
		}
		time.Sleep(tracedPause)
	}
}

// runs asks without taking the news from anybody, nor telling the scheduler of a call that does not wait: in a process that has
// slept it would wake a thread to watch over it.
func (h handle) runs(pid int) bool {
	var info unix.Siginfo
	const options = unix.WEXITED | unix.WSTOPPED | unix.WNOHANG | unix.WNOWAIT
	_, _, errno := syscall.RawSyscall6(unix.SYS_WAITID, unix.P_PID, uintptr(pid), uintptr(unsafe.Pointer(&info)), options, 0, 0)
	return errno == 0 && info.Signo == 0
}

// tracedPause is the time between looks at a child that this very process holds as its debugger.
const tracedPause = 10 * time.Millisecond

// tellsEnd tells whether waitid found a process that has ended. For a process that this very one traces, waitid tells
// of its stops too, asked or not (ptrace(2)).
func tellsEnd(info *unix.Siginfo) bool {
	return info.Signo != 0 && (info.Code == cldExited || info.Code == cldKilled || info.Code == cldDumped)
}

// reap takes the status of a process that awaitEnd has waited for.
func (h handle) reap(pid int) ExitStatus {
	var info unix.Siginfo
	err := error(unix.EINVAL)
	if h.conn != nil {
		defer h.file.Close()
		h.conn.Control(func(fd uintptr) {
			err = waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG)
		})
	}
	if err == unix.EINVAL {
		err = waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG)
	}
	if err != nil {
		return ExitStatus{} // ECHILD: somebody else has taken it
	}
	return siginfoStatus(&info)
}

func (h handle) signal(pid int, sig syscall.Signal) error {
	if h.conn == nil {
		return syscall.Kill(pid, sig)
	}
	var err error
	cerr := h.conn.Control(func(fd uintptr) {
		err = unix.PidfdSendSignal(int(fd), sig, nil, 0)
	})
	switch {
	case cerr != nil:
		return os.ErrProcessDone
	case err == unix.ENOSYS:
		return syscall.Kill(pid, sig)
	}
	return err
}

func waitid(idType, id int, info *unix.Siginfo, options int) error {
	for {
		if err := unix.Waitid(idType, id, info, options, nil); err != unix.EINTR {
			return err
		}
	}
}

// What si_code says of a child (sigaction(2)).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)

// siginfoStatus reads si_status, which x/sys does not name. It follows si_pid and si_uid in a union that
// begins behind three ints, and a fourth for alignment on 64-bit machines.
func siginfoStatus(info *unix.Siginfo) ExitStatus {
	const word = unsafe.Sizeof(uintptr(0))
	const statusOffset = 12 + 4*(word>>3) + 8
	status := *(*int32)(unsafe.Add(unsafe.Pointer(info), statusOffset))
	switch info.Code {
	case cldExited:
		return Exited(int(status))
	case cldKilled, cldDumped:
		return Killed(syscall.Signal(status), info.Code == cldDumped)
	}
	return ExitStatus{}
}
