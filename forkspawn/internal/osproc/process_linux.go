package osproc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const fdDir = "/proc/self/fd"

// CanExec reports whether this platform can start processes.
const CanExec = true

func sysProcAttr(attr *Attr, pidfd *int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setpgid: attr.OwnGroup && !attr.NewSession, Setsid: attr.NewSession,
		Pdeathsig: attr.ParentDeathSignal, PidFD: pidfd,
	}
}

// thisProgram returns a path to the running program. It works even if the file has
// been replaced or deleted.
func thisProgram() (string, error) {
	const self = "/proc/self/exe"
	if file, err := os.Readlink(self); err == nil {
		if isLoader(filepath.Base(file)) {
			return "", fmt.Errorf(
				"this program was started through the loader %s, so its own file is unknown; set Command.Path", file)
		}
		return self, nil
	}
	path, err := programFromArgs()
	if err != nil {
		err = &ResourceError{"/proc, where this program finds its own file",
			"mount it, or set Command.Path", err}
	}
	return path, err
}

// isLoader reports whether a file is a dynamic loader, as in
// "/lib64/ld-linux-x86-64.so.2 ./program".
func isLoader(name string) bool {
	return strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld-musl-") ||
		strings.HasPrefix(name, "ld.so")
}

// handle is a pidfd in the runtime's poller, so that a wait occupies a goroutine
// and no thread. The zero handle is for kernels without pidfd. There a wait
// occupies a thread.
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

// wait waits until the process is a zombie, without the lock. Then it kills the
// rest of the group and reaps the process.
func (p *Process) wait() Status {
	zombie := p.handle.awaitEnd(p.pid)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ownGroup && zombie: // no other group can have the id of a zombie
		syscall.Kill(-p.pid, syscall.SIGKILL)
	case p.ownGroup:
		killOrphanedGroup(p.pid)
	}
	p.reaped = true
	return p.handle.reap(p.pid, &p.usage)
}

// killOrphanedGroup kills the processes of a group whose leader was reaped by
// somebody else. As long as the group has a process, its id is not used again.
// Once it has none, the id can be that of another process and its group. So this
// function kills nobody if there is such a process, and only processes of the
// group and of this session, through a pidfd.
//
// If the kernel itself reaps, because this process ignores SIGCHLD, it reports that a
// moment before the leader has left /proc.
func killOrphanedGroup(group int) {
	session, err := unix.Getsid(0)
	if err != nil {
		return
	}
	leader := "/proc/" + strconv.Itoa(group)
	for range leavingPauses {
		if _, err := os.Lstat(leader); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	const passes = 10 // a process can fork while it is killed
	for range passes {
		entries, err := os.ReadDir("/proc")
		if _, there := os.Lstat(leader); err != nil || there == nil {
			return
		}
		found := false
		for _, entry := range entries {
			pid, err := strconv.Atoi(entry.Name())
			if err != nil || !isMember(pid, group, session) {
				continue
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue
			}
			if isMember(pid, group, session) { // the pid was not reused before the open
				found = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil || found
			}
			unix.Close(fd)
		}
		if !found {
			return
		}
	}
}

// leavingPauses bounds the wait of killOrphanedGroup, in milliseconds.
const leavingPauses = 50

// isMember reports whether a process is in the group, and in the session or in a
// session with the group's id.
func isMember(pid, group, session int) bool {
	g, err := unix.Getpgid(pid)
	if err != nil || g != group {
		return false
	}
	s, err := unix.Getsid(pid)
	return err == nil && (s == session || s == group)
}

// awaitEnd waits for the end of the process. It returns true if the process is a
// zombie, and false if other code has reaped it.
func (h handle) awaitEnd(pid int) bool {
	if h.conn != nil {
		done, zombie := false, false
		h.conn.Read(func(fd uintptr) bool {
			var info unix.Siginfo
			err := Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
			zombie = err == nil && TellsEnd(&info)
			done = zombie || errors.Is(err, unix.ECHILD)
			return done || err != nil
		})
		if done {
			return zombie
		}
	}
	// There is no pidfd, no poller or, before kernel 5.4, no P_PIDFD. So this
	// waits in a thread.
	for {
		var info unix.Siginfo
		if Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT) != nil {
			return false
		}
		if TellsEnd(&info) {
			return true
		}
		time.Sleep(tracedPause)
	}
}

// runs does not reap the process. It makes a raw system call, because the scheduler
// of an idle process would wake a thread for a usual one.
func (h handle) runs(pid int) bool {
	var info unix.Siginfo
	const options = unix.WEXITED | unix.WSTOPPED | unix.WNOHANG | unix.WNOWAIT
	_, _, errno := syscall.RawSyscall6(unix.SYS_WAITID, unix.P_PID, uintptr(pid),
		uintptr(unsafe.Pointer(&info)), options, 0, 0)
	return errno == 0 && info.Signo == 0
}

// stoppedBy returns the signal that has stopped the process, or 0.
func (h handle) stoppedBy(pid int) syscall.Signal {
	var info unix.Siginfo
	err := Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT)
	if err != nil || info.Signo == 0 || info.Code != cldStopped {
		return 0
	}
	return syscall.Signal(siginfoValue(&info))
}

// tracedPause is the time between two polls of a child that this process debugs.
const tracedPause = 10 * time.Millisecond

// TellsEnd reports whether waitid has found the end of a process. If this process
// is its debugger, waitid also returns its stops, even without WSTOPPED
// (ptrace(2)).
func TellsEnd(info *unix.Siginfo) bool {
	return info.Signo != 0 &&
		(info.Code == cldExited || info.Code == cldKilled || info.Code == cldDumped)
}

// reap reaps the process after awaitEnd. It returns its status and sets its usage.
func (h handle) reap(pid int, usage *Usage) Status {
	var info unix.Siginfo
	var used unix.Rusage
	err := error(unix.EINVAL)
	if h.conn != nil {
		defer h.file.Close()
		h.conn.Control(func(fd uintptr) {
			err = waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG, &used)
		})
	}
	if errors.Is(err, unix.EINVAL) {
		err = waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG, &used)
	}
	if err != nil {
		return Status{} // ECHILD: other code has reaped it
	}
	*usage = usageOf((*syscall.Rusage)(unsafe.Pointer(&used)), 1<<10) // the same struct
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

// Waitid calls waitid(2), and again if a signal interrupts it.
func Waitid(idType, id int, info *unix.Siginfo, options int) error {
	return waitid(idType, id, info, options, nil)
}

func waitid(idType, id int, info *unix.Siginfo, options int, used *unix.Rusage) error {
	for {
		if err := unix.Waitid(idType, id, info, options, used); err != unix.EINTR {
			return err
		}
	}
}

// The values of si_code for the end of a child (sigaction(2)).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3

	cldStopped = 5
)

// siginfoValue returns si_status. Package unix has no name for it. It follows
// si_pid and si_uid in a union. The union begins after three ints, and after a
// fourth for alignment on 64-bit machines.
func siginfoValue(info *unix.Siginfo) int32 {
	const word = unsafe.Sizeof(uintptr(0))
	const statusOffset = 12 + 4*(word>>3) + 8
	return *(*int32)(unsafe.Add(unsafe.Pointer(info), statusOffset))
}

func siginfoStatus(info *unix.Siginfo) Status {
	status := siginfoValue(info)
	switch info.Code {
	case cldExited:
		return Exited(int(status))
	case cldKilled, cldDumped:
		return Killed(syscall.Signal(status), info.Code == cldDumped)
	}
	return Status{}
}
