package forkspawn

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// credentials are what the kernel goes by when it decides what a process may do. A child has those that its parent had when it was
// started. On Linux each thread has its own; package syscall changes them in all.
type credentials struct {
	users        [3]uint32 // real, effective and saved: getresuid(2)
	groups       [3]uint32
	others       uintptr    // how many supplementary groups there are: getgroups(2)
	few          [32]uint32 // which
	many         []int      // the same, where they are too many for few
	capabilities [2]unix.CapUserData
	securebits   uintptr // prctl(2), of this and the next two
	noNewPrivs   uintptr
	seccomp      uintptr // its mode
	rootMount    uint64  // of the root directory, as chroot(2) changes it: statx(2)
	rootInode    uint64
}

// currentCredentials are those of the calling thread. That takes eight system calls, of which the scheduler need not be told, as they
// do not block. What may not be asked is 0.
func currentCredentials() (c credentials) {
	ids := func(trap uintptr, ids *[3]uint32) {
		syscall.RawSyscall(trap, uintptr(unsafe.Pointer(&ids[0])), uintptr(unsafe.Pointer(&ids[1])), uintptr(unsafe.Pointer(&ids[2])))
	}
	ids(syscall.SYS_GETRESUID, &c.users)
	ids(syscall.SYS_GETRESGID, &c.groups)
	n, _, errno := syscall.RawSyscall(syscall.SYS_GETGROUPS, uintptr(len(c.few)), uintptr(unsafe.Pointer(&c.few)), 0)
	if c.others = n; errno == syscall.EINVAL {
		c.many, _ = unix.Getgroups()
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&c.capabilities)), 0)
	ask := func(option uintptr) uintptr {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, 0, 0, 0, 0, 0)
		if errno != 0 {
			return 0
		}
		return n
	}
	c.securebits, c.noNewPrivs, c.seccomp = ask(unix.PR_GET_SECUREBITS), ask(unix.PR_GET_NO_NEW_PRIVS), ask(unix.PR_GET_SECCOMP)
	path, at, mask := [...]byte{'/', 0}, unix.AT_FDCWD, uintptr(unix.STATX_INO|unix.STATX_MNT_ID)
	var root unix.Statx_t
	syscall.RawSyscall6(unix.SYS_STATX, uintptr(at), uintptr(unsafe.Pointer(&path)), 0, mask, uintptr(unsafe.Pointer(&root)), 0)
	c.rootMount, c.rootInode = root.Mnt_id, root.Ino
	return c
}

// differ says what of them another process does not have; "" when it is the same.
func (c *credentials) differ(other *credentials) string {
	switch {
	case c.users != other.users:
		return "user"
	case c.groups != other.groups:
		return "group"
	case c.others != other.others || c.few != other.few || !slices.Equal(c.many, other.many):
		return "supplementary groups"
	case c.capabilities != other.capabilities:
		return "capabilities"
	case c.securebits != other.securebits:
		return "securebits"
	case c.noNewPrivs != other.noNewPrivs:
		return "no_new_privs"
	case c.seccomp != other.seccomp:
		return "seccomp mode"
	case c.rootMount != other.rootMount || c.rootInode != other.rootInode:
		return "root directory"
	}
	return ""
}
