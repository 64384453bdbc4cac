//go:build (amd64 || arm64) && !portable

package vfork

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The steps of set. A step from stepLimit on is that of a limit.
const (
	stepCgroup uintptr = stepExec + 1 + iota
	stepNice
	stepGroups
	stepGID
	stepUID
	stepNoNewPrivs
	stepLimit
)

// procs is the file of a control group that a process enters by writing its number, or
// 0 for itself (cgroups(7)).
var (
	procs = [...]byte{'c', 'g', 'r', 'o', 'u', 'p', '.', 'p', 'r', 'o', 'c', 's', 0}
	self  = [...]byte{'0'}
)

// set makes the settings in the child. The privileges for the others end with the
// credentials, so these come late. A change of them also clears the parent-death signal
// (prctl(2)).
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func set(c *childArgs) (step uintptr, e syscall.Errno) {
	s := c.settings
	if s.Cgroup != nil {
		if e = enter(uintptr(len(c.files) - 1)); e != 0 {
			return stepCgroup, e
		}
	}
	if s.Nice != nil {
		if _, _, e = syscall.RawSyscall(syscall.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0,
			uintptr(*s.Nice)); e != 0 {
			return stepNice, e
		}
	}
	if s.Umask != nil {
		syscall.RawSyscall(syscall.SYS_UMASK, uintptr(*s.Umask), 0, 0)
	}
	limits := s.Limits
	for i := range limits {
		if _, _, e = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(limits[i].Resource),
			uintptr(unsafe.Pointer(&limits[i].Soft)), 0, 0, 0); e != 0 {
			return stepLimit + uintptr(i), e
		}
	}
	if s.Credential != nil {
		if step, e = become(s.Credential); e != 0 {
			return step, e
		}
		if step, e = dieWithParent(c); e != 0 {
			return step, e
		}
	}
	if s.NoNewPrivs {
		_, _, e = syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	}
	return stepNoNewPrivs, e
}

// enter moves the child into the control group of a directory, and closes that.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func enter(dir uintptr) (e syscall.Errno) {
	var fd uintptr
	if fd, _, e = syscall.RawSyscall6(syscall.SYS_OPENAT, dir, uintptr(unsafe.Pointer(&procs)),
		syscall.O_WRONLY|syscall.O_CLOEXEC, 0, 0, 0); e != 0 {
		return e
	}
	if _, _, e = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&self)),
		uintptr(len(self))); e != 0 {
		return e
	}
	syscall.RawSyscall(syscall.SYS_CLOSE, dir, 0, 0)
	return 0
}

// become changes the groups and users, all of them: real, effective and saved.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func become(to *Credential) (step uintptr, e syscall.Errno) {
	if _, _, e = syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(to.Groups)),
		uintptr(unsafe.Pointer(unsafe.SliceData(to.Groups))), 0); e != 0 {
		return stepGroups, e
	}
	id := uintptr(to.GID)
	if _, _, e = syscall.RawSyscall(syscall.SYS_SETRESGID, id, id, id); e != 0 {
		return stepGID, e
	}
	id = uintptr(to.UID)
	_, _, e = syscall.RawSyscall(syscall.SYS_SETRESUID, id, id, id)
	return stepUID, e
}

// dieWithParent sets the parent-death signal.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func dieWithParent(c *childArgs) (step uintptr, e syscall.Errno) {
	if c.deathSig == 0 {
		return stepNone, 0
	}
	if _, _, e = syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG,
		c.deathSig, 0, 0, 0, 0); e != 0 {
		return stepParentDeath, e
	}
	// If the parent has died just before, the signal will not come.
	if r, _, _ := syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0); r != c.parentPID {
		return stepParentGone, syscall.ESRCH
	}
	return stepNone, 0
}

// failure returns the error of the child's step.
func (c *childArgs) failure() *Error {
	e := &Error{Err: syscall.Errno(c.errno), Setting: c.step > stepExec}
	s := c.settings
	switch c.step {
	case stepCgroup:
		e.Step = "enter the control group " + s.Cgroup.Name()
	case stepNice:
		e.Step = fmt.Sprintf("set the nice value to %d", *s.Nice)
	case stepGroups:
		e.Step = fmt.Sprintf("set the supplementary groups to %v", s.Credential.Groups)
	case stepGID:
		e.Step = fmt.Sprintf("set the group to %d", s.Credential.GID)
	case stepUID:
		e.Step = fmt.Sprintf("set the user to %d", s.Credential.UID)
	case stepNoNewPrivs:
		e.Step = "set no_new_privs"
	default:
		if e.Setting {
			e.Step = "set " + s.Limits[c.step-stepLimit].String()
		} else {
			e.Step = stepNames[c.step]
		}
	}
	return e
}
