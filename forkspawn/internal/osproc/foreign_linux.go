package osproc

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CanRelease reports whether children can outlive their parent on this platform.
const CanRelease = true

// Foreign is a process that is not this process's child, and leads its own process
// group. Its methods may be called concurrently.
type Foreign struct {
	pid    int
	handle handle
	leash  *leash

	once   sync.Once // runs wait
	status Status

	mu     sync.Mutex // guards closed, and the leash from its closing; not held while waiting
	closed bool
}

// NewForeign takes over a pidfd. Its kernel leash holds the process from Hold on. The
// caller calls Wait or Close in the end.
func NewForeign(pid, pidfd int) (*Foreign, error) {
	lead, err := newLeash()
	if err != nil {
		unix.Close(pidfd)
		return nil, ExplainScarcity(err)
	}
	f := &Foreign{pid: pid, handle: newHandle(pid, pidfd), leash: lead}
	if f.handle.conn == nil {
		lead.close()
		return nil, os.NewSyscallError("pidfd", unix.EINVAL)
	}
	return f, nil
}

// Hold lets the kernel kill the process's group when this process ends, until Unleash.
// It returns os.ErrProcessDone if the process has ended.
func (f *Foreign) Hold() error {
	f.leash.hold(f.pid)
	err := f.Signal(0)
	if err != nil {
		f.leash.hold(0) // the number may be another group's
	}
	return err
}

// Unleash ends the effect of Hold.
func (f *Foreign) Unleash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.leash.hold(0)
	}
}

// Close forgets the process, in place of Wait.
func (f *Foreign) Close() {
	f.Unleash()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.leash.close()
	f.handle.file.Close()
}

// PID returns the process id.
func (f *Foreign) PID() int { return f.pid }

// Wait waits until the process has ended, and kills the rest of its group. The status is
// known on Linux 6.15 and newer. Wait may be called again.
func (f *Foreign) Wait() Status {
	f.once.Do(f.wait)
	return f.status
}

func (f *Foreign) wait() {
	f.handle.conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n == 1 || err != nil && err != unix.EINTR
	})
	f.SignalGroup(unix.SIGKILL)
	f.handle.conn.Control(func(fd uintptr) { f.status = exitInfo(int(fd)) })
	f.Close()
}

// reapBound is how long exitInfo waits until the parent of an ended process, such as
// init, has reaped it. The kernel tells the status from then on.
const reapBound = time.Second

// exitInfo returns the status of an ended process, as far as the kernel tells it.
func exitInfo(pidfd int) Status {
	for began := time.Now(); time.Since(began) < reapBound; time.Sleep(time.Millisecond) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil {
			break // ENOTTY before Linux 6.13, ESRCH before 6.15
		}
		if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
			continue
		}
		ws := syscall.WaitStatus(info.Exit_code)
		if ws.Signaled() {
			return Killed(ws.Signal(), ws.CoreDump())
		}
		return Exited(ws.ExitStatus())
	}
	return Status{}
}

// Signal sends a signal to the process. After its end it returns os.ErrProcessDone.
func (f *Foreign) Signal(sig syscall.Signal) error { return f.send(sig, 0) }

// SignalGroup is Signal for the process's group. Before Linux 6.9 it is Signal, because
// there is no way to signal a group by its pidfd.
func (f *Foreign) SignalGroup(sig syscall.Signal) error {
	err := f.send(sig, unix.PIDFD_SIGNAL_PROCESS_GROUP)
	if errors.Is(err, unix.EINVAL) {
		err = f.Signal(sig)
	}
	return err
}

func (f *Foreign) send(sig syscall.Signal, flags int) error {
	err := error(unix.ESRCH)
	f.handle.conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, flags) })
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Leash lets the kernel kill the process's group when this process ends, as Attr.Leash
// does from the start. The caller calls it before Wait.
func (p *Process) Leash() error {
	lead, err := newLeash()
	if err != nil {
		return ExplainScarcity(err)
	}
	lead.hold(p.pid)
	p.leash = lead
	return nil
}

// Unleash ends the effect of Leash and of Attr.Leash.
func (p *Process) Unleash() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped { // the leash is closed afterwards
		p.leash.hold(0)
	}
}

// KillAfter lets the kernel kill this process with SIGKILL after d, even if it is
// stopped (timer_create(2)). cancel takes that back.
func KillAfter(d time.Duration) (cancel func(), err error) {
	event := struct { // struct sigevent of SIGEV_SIGNAL in sigevent(3type)
		value  uintptr
		signo  int32
		notify int32
		_      [48]byte
	}{signo: int32(unix.SIGKILL)}
	var timer int32
	if _, _, e := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC,
		uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&timer))); e != 0 {
		return nil, os.NewSyscallError("timer_create", e)
	}
	end := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if _, _, e := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(timer), 0,
		uintptr(unsafe.Pointer(&end)), 0, 0, 0); e != 0 {
		return nil, os.NewSyscallError("timer_settime", e)
	}
	return func() { unix.Syscall(unix.SYS_TIMER_DELETE, uintptr(timer), 0, 0) }, nil
}
