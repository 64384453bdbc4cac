//go:build unix && !linux

package osproc

import (
	"os"
	"syscall"
)

const fdDir = "/dev/fd"

// CanExec reports whether this platform can start processes.
const CanExec = true

func sysProcAttr(attr *Attr, _ *int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: attr.OwnGroup && !attr.NewSession, Setsid: attr.NewSession}
}

func thisProgram() (string, error) { return programFromArgs() }

// handle is the standard library's. A wait occupies a thread.
type handle struct{ proc *os.Process }

func newHandle(pid, _ int) handle {
	proc, _ := os.FindProcess(pid) // never fails on Unix
	return handle{proc}
}

// wait kills the rest of the group after it has reaped the process, because this
// platform does not report the end before.
func (p *Process) wait() Status {
	st, err := p.handle.proc.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	if p.ownGroup {
		syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	if err != nil {
		return Status{}
	}
	if used, ok := st.SysUsage().(*syscall.Rusage); ok {
		p.usage = usageOf(used, 1) // bytes on macOS
	}
	ws := st.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return Killed(ws.Signal(), ws.CoreDump())
	}
	return Exited(ws.ExitStatus())
}

// stoppedBy returns 0, because this platform has no way to ask without a wait.
func (h handle) stoppedBy(int) syscall.Signal { return 0 }

// runs returns true, because this platform has no way to ask without reaping.
func (h handle) runs(int) bool { return true }

func (h handle) signal(_ int, sig syscall.Signal) error { return h.proc.Signal(sig) }

func maySignal(uint32) error { return nil } // the start itself needs root

func keepDumpable() (restore func()) { return func() {} }
