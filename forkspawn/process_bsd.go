//go:build unix && !linux

package forkspawn

import (
	"os"
	"syscall"
)

const fdDir = "/dev/fd"

const canExec = true

func sysProcAttr(attr *ProcessAttr, _ *int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: attr.OwnGroup}
}

func thisProgram() (string, error) { return programFromArgs() }

// handle is the standard library's: waiting costs a thread.
type handle struct{ proc *os.Process }

func newHandle(pid, _ int) handle {
	proc, _ := os.FindProcess(pid) // never fails on Unix
	return handle{proc}
}

// wait kills what is left of the group only after the process was reaped, as this platform gives no way to
// learn of the end before.
func (p *OSProcess) wait() ExitStatus {
	st, err := p.handle.proc.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	if p.ownGroup {
		syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	if err != nil {
		return ExitStatus{}
	}
	ws := st.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return Killed(ws.Signal(), ws.CoreDump())
	}
	return Exited(ws.ExitStatus())
}

// runs cannot be asked without taking the status away.
func (h handle) runs(int) bool { return true }

func (h handle) signal(_ int, sig syscall.Signal) error { return h.proc.Signal(sig) }
