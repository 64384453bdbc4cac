package unixsock

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func peerCred(fd int) (Cred, error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Cred{}, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	return Cred{PID: int(c.Pid), UID: c.Uid, GID: c.Gid}, nil
}

// heldPeer is a pidfd of the process at the other end, or -1 on an older kernel.
type heldPeer int

func holdPeer(fd int) (heldPeer, error) {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch err {
	case nil:
		return heldPeer(pidfd), nil
	case unix.ENOPROTOOPT: // before Linux 6.5
		return -1, nil
	case unix.ESRCH, unix.EINVAL: // it is reaped
		return -1, errEnded
	}
	return -1, os.NewSyscallError("getsockopt SO_PEERPIDFD", err)
}

// HoldPeer returns the credentials and a pidfd of the process at the other end. On a
// dialed connection that is the listening process. The caller closes the pidfd.
// Before Linux 6.5 the pidfd may be that of another process with the same number, if
// the peer has ended.
func HoldPeer(conn net.Conn) (cred Cred, pidfd int, err error) {
	err = control(conn, func(fd int) error {
		if cred, err = peerCred(fd); err != nil {
			return err
		}
		held, err := holdPeer(fd)
		if pidfd = int(held); err == nil && held < 0 {
			pidfd, err = unix.PidfdOpen(cred.PID, 0)
		}
		return err
	})
	return cred, pidfd, err
}

func (h heldPeer) release() {
	if h >= 0 {
		unix.Close(int(h))
	}
}

// exists reports whether the process still has its pid. A zombie has.
func (h heldPeer) exists() bool {
	return h < 0 || unix.PidfdSendSignal(int(h), 0, nil, 0) != unix.ESRCH
}

// parentOf reads a process's parent from its stat file (proc_pid_stat(5)). The name in
// parentheses can contain any character.
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat cannot be read", pid)
	}
	return strconv.Atoi(string(fields[1]))
}
