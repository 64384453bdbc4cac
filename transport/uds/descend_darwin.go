package uds

import (
	"os"

	"golang.org/x/sys/unix"
)

// heldPeer is nothing here: there is the process's number alone.
type heldPeer struct{}

func holdPeer(int) (heldPeer, error) { return heldPeer{}, nil }
func (heldPeer) release()            {}
func (heldPeer) there() bool         { return true }

// parentOf asks the kernel for a process's parent (sysctl(3), KERN_PROC_PID).
func parentOf(pid int) (int, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return 0, os.NewSyscallError("sysctl kern.proc.pid", err)
	}
	return int(info.Eproc.Ppid), nil
}
