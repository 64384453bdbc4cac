//go:build amd64 || arm64

package template

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// credentials decide what the kernel allows a process to do. A child inherits
// its parent's. On Linux each thread has its own, and package syscall changes
// them in all threads.
type credentials struct {
	users        [3]uint32 // real, effective and saved: getresuid(2)
	groups       [3]uint32
	others       uintptr    // the number of supplementary groups: getgroups(2)
	few          [32]uint32 // the groups
	many         []int      // the groups, if they are too many for few
	capabilities [2]unix.CapUserData
	securebits   uintptr // prctl(2), also of the next two
	noNewPrivs   uintptr
	seccomp      uintptr // the mode
	rootMount    uint64  // of the root directory (statx(2)), which chroot(2) changes
	rootInode    uint64
}

// currentCredentials returns the credentials of the calling thread. A value
// that cannot be read is 0. The eight system calls are raw, because they do not
// block and the scheduler need not know of them.
func currentCredentials() (c credentials) {
	ids := func(trap uintptr, ids *[3]uint32) {
		syscall.RawSyscall(trap, uintptr(unsafe.Pointer(&ids[0])), uintptr(unsafe.Pointer(&ids[1])),
			uintptr(unsafe.Pointer(&ids[2])))
	}
	ids(syscall.SYS_GETRESUID, &c.users)
	ids(syscall.SYS_GETRESGID, &c.groups)
	n, _, errno := syscall.RawSyscall(syscall.SYS_GETGROUPS, uintptr(len(c.few)),
		uintptr(unsafe.Pointer(&c.few)), 0)
	if c.others = n; errno == syscall.EINVAL {
		c.many, _ = unix.Getgroups()
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)),
		uintptr(unsafe.Pointer(&c.capabilities)), 0)
	ask := func(option uintptr) uintptr {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, 0, 0, 0, 0, 0)
		if errno != 0 {
			return 0
		}
		return n
	}
	c.securebits, c.noNewPrivs, c.seccomp = ask(unix.PR_GET_SECUREBITS),
		ask(unix.PR_GET_NO_NEW_PRIVS), ask(unix.PR_GET_SECCOMP)
	path, at, mask := [...]byte{'/', 0}, unix.AT_FDCWD, uintptr(unix.STATX_INO|unix.STATX_MNT_ID)
	var root unix.Statx_t
	syscall.RawSyscall6(unix.SYS_STATX, uintptr(at), uintptr(unsafe.Pointer(&path)), 0, mask,
		uintptr(unsafe.Pointer(&root)), 0)
	c.rootMount, c.rootInode = root.Mnt_id, root.Ino
	return c
}

// differ names a difference between two sets of credentials. "" is none.
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
