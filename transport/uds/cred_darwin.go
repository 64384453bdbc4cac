package uds

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
	// The first of the groups is the effective one; a process has at least that.
	return Cred{PID: pid, UID: x.Uid, GID: x.Groups[0]}, nil
}
