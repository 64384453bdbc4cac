package forkspawn

import (
	"slices"

	"golang.org/x/sys/unix"
)

// credentials are what the kernel goes by when it decides what a process may do. A child has those that its parent had when it was
// started. On Linux each thread has its own; package syscall changes them in all.
type credentials struct {
	users        [3]int // real, effective and saved: getresuid(2)
	groups       [3]int
	others       []int // supplementary groups: getgroups(2)
	capabilities [2]unix.CapUserData
	securebits   int // prctl(2), of this and the next two; 0 where it may not be asked
	noNewPrivs   int
	seccomp      int    // its mode
	rootMount    uint64 // of the root directory, as chroot(2) changes it: statx(2)
	rootInode    uint64
}

// currentCredentials are those of the calling thread. That takes eight or nine system calls.
func currentCredentials() (c credentials) {
	c.users[0], c.users[1], c.users[2] = unix.Getresuid()
	c.groups[0], c.groups[1], c.groups[2] = unix.Getresgid()
	c.others, _ = unix.Getgroups()
	unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &c.capabilities[0])
	c.securebits, _ = unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	c.noNewPrivs, _ = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	c.seccomp, _ = unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	var root unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, "/", 0, unix.STATX_INO|unix.STATX_MNT_ID, &root) == nil {
		c.rootMount, c.rootInode = root.Mnt_id, root.Ino
	}
	return c
}

// differ says what of them another process does not have; "" when it is the same.
func (c *credentials) differ(other *credentials) string {
	switch {
	case c.users != other.users:
		return "user"
	case c.groups != other.groups:
		return "group"
	case !slices.Equal(c.others, other.others):
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
