package unixsock

import (
	"os"

	"golang.org/x/sys/unix"
)

func peerCred(fd int) (Cred, error) {
	x, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockopt LOCAL_PEERCRED", err)
	}
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockopt LOCAL_PEERPID", err)
	}
	return Cred{PID: pid, UID: x.Uid, GID: x.Groups[0]}, nil // the first group is the effective one
}

// heldPeer is empty, because Darwin has only the pid of a process.
type heldPeer struct{}

func holdPeer(int) (heldPeer, error) { return heldPeer{}, nil }
func (heldPeer) release()            {}
func (heldPeer) exists() bool        { return true }

// parentOf asks the kernel for a process's parent (sysctl(3), KERN_PROC_PID).
func parentOf(pid int) (int, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return 0, os.NewSyscallError("sysctl kern.proc.pid", err)
	}
	return int(info.Eproc.Ppid), nil
}
