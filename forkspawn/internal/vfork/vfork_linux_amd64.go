package vfork

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The steps of the child, as it reports them. Those of the parent are named where they happen.
const (
	stepNone uintptr = iota
	stepGroup
	stepParentDeath
	stepParentGone
	stepDir
	stepFiles
	stepCloseRange
	stepMask
	stepExec
)

var stepNames = [...]string{
	stepGroup:       "setpgid",
	stepParentDeath: "prctl(PR_SET_PDEATHSIG)",
	stepParentGone:  "parent gone",
	stepDir:         "chdir",
	stepFiles:       "dup3",
	stepCloseRange:  "close_range",
	stepMask:        "rt_sigprocmask",
	stepExec:        "execve",
}

// cloneArgs is struct clone_args of linux/sched.h, its first version.
type cloneArgs struct {
	flags      uint64
	pidfd      uint64
	_          [2]uint64 // child_tid, parent_tid
	exitSignal uint64
	_          [3]uint64 // stack, stack_size, tls: the parent's own
}

// childArgs is all that the child needs, made before the clone, as the child can allocate nothing.
type childArgs struct {
	clone     cloneArgs
	path      *byte
	argv      **byte
	envv      **byte
	dir       *byte
	files     [3]uintptr
	ownGroup  bool
	deathSig  uintptr
	parentPID uintptr
	allSigs   uint64 // a full mask
	oldSigs   uint64 // the thread's own

	pidfd int32   // written by the kernel
	step  uintptr // written by the child when it fails
	errno uintptr
}

const exitFailed = 127 // of a child that could not execute; nobody but the parent's wait sees it

// Start starts the program and returns its pid and a pidfd, which the caller closes; it is in blocking
// mode and close-on-exec. A child that could not execute is reaped before Start returns its error.
//
// With a ParentDeathSignal the calling goroutine must be locked to a thread that lives as long as
// the child shall.
func Start(a *Attr) (pid, pidfd int, err error) {
	c := &childArgs{
		files:     [3]uintptr{uintptr(a.Files[0]), uintptr(a.Files[1]), uintptr(a.Files[2])},
		ownGroup:  a.OwnGroup,
		deathSig:  uintptr(a.ParentDeathSignal),
		parentPID: uintptr(syscall.Getpid()),
		allSigs:   ^uint64(0),
	}
	if c.path, err = syscall.BytePtrFromString(a.Path); err != nil {
		return 0, -1, fmt.Errorf("path: %w", err)
	}
	argv, err := syscall.SlicePtrFromStrings(a.Args)
	if err != nil {
		return 0, -1, fmt.Errorf("arguments: %w", err)
	}
	envv, err := syscall.SlicePtrFromStrings(a.Env)
	if err != nil {
		return 0, -1, fmt.Errorf("environment: %w", err)
	}
	if a.Secret != nil {
		if bytes.IndexByte(a.Secret, 0) >= 0 {
			return 0, -1, fmt.Errorf("environment: %w", syscall.EINVAL)
		}
		secret := make([]byte, len(a.Secret)+1)
		copy(secret, a.Secret)
		defer clear(secret) // the child has executed, or ended, by then
		envv[len(envv)-1] = &secret[0]
		envv = append(envv, nil)
	}
	c.argv, c.envv = &argv[0], &envv[0]
	if a.Dir != "" {
		if c.dir, err = syscall.BytePtrFromString(a.Dir); err != nil {
			return 0, -1, fmt.Errorf("directory: %w", err)
		}
	}
	c.clone = cloneArgs{
		flags:      unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		exitSignal: uint64(syscall.SIGCHLD),
	}

	runtime.LockOSThread() // the signal mask is the thread's
	syscall.ForkLock.Lock()
	upid, errno, step := vfork(c)
	syscall.ForkLock.Unlock()
	runtime.UnlockOSThread()
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)

	if errno != 0 {
		return 0, -1, &Error{step, syscall.Errno(errno)}
	}
	pid, pidfd = int(upid), int(c.pidfd)
	if c.step != stepNone {
		reap(pid)
		syscall.Close(pidfd)
		return 0, -1, &Error{stepNames[c.step], syscall.Errno(c.errno)}
	}
	return pid, pidfd, nil
}

// reap takes a child's exit status, which nobody needs.
func reap(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// clone3 is in the assembly file.
//
//go:noescape
func clone3(args *cloneArgs, size uintptr) (pid, errno uintptr)

// vfork blocks signals around the clone.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func vfork(c *childArgs) (pid, errno uintptr, step string) {
	_, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.allSigs)), uintptr(unsafe.Pointer(&c.oldSigs)), 8, 0, 0)
	if e != 0 {
		return 0, uintptr(e), "rt_sigprocmask"
	}
	// Only now: c may lie on this goroutine's stack, which cannot move any more.
	c.clone.pidfd = uint64(uintptr(unsafe.Pointer(&c.pidfd)))
	pid, errno = cloneAndExec(c)
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.oldSigs)), 0, 8, 0, 0)
	return pid, errno, "clone3"
}

// cloneAndExec returns at once in the parent. In the child it never returns, and so overwrites nothing
// in the frames above its own, which the parent will use again.
//
// No call in here may grow the stack, allocate, take a lock or be preempted: only raw system calls.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func cloneAndExec(c *childArgs) (pid, errno uintptr) {
	pid, errno = clone3(&c.clone, unsafe.Sizeof(c.clone))
	if pid != 0 || errno != 0 {
		return pid, errno
	}

	// The child.
	var e syscall.Errno
	var r uintptr
	i := 0
	step := stepNone

	if c.ownGroup {
		step = stepGroup
		if _, _, e = syscall.RawSyscall(syscall.SYS_SETPGID, 0, 0, 0); e != 0 {
			goto fail
		}
	}
	if c.deathSig != 0 {
		step = stepParentDeath
		if _, _, e = syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, c.deathSig, 0, 0, 0, 0); e != 0 {
			goto fail
		}
		// The parent may have died just before: the signal will not come then.
		step = stepParentGone
		if r, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0); r != c.parentPID {
			e = syscall.ESRCH
			goto fail
		}
	}
	if c.dir != nil {
		step = stepDir
		if _, _, e = syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0); e != 0 {
			goto fail
		}
	}

	// First move up what would be overwritten, then put each in its place.
	step = stepFiles
	for i = 0; i < 3; i++ {
		if c.files[i] < 3 && c.files[i] != uintptr(i) {
			if r, _, e = syscall.RawSyscall(syscall.SYS_FCNTL, c.files[i], syscall.F_DUPFD_CLOEXEC, 3); e != 0 {
				goto fail
			}
			c.files[i] = r
		}
	}
	for i = 0; i < 3; i++ {
		if c.files[i] == uintptr(i) {
			_, _, e = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(i), syscall.F_SETFD, 0) // clears close-on-exec
		} else {
			_, _, e = syscall.RawSyscall(syscall.SYS_DUP3, c.files[i], uintptr(i), 0)
		}
		if e != 0 {
			goto fail
		}
	}
	step = stepCloseRange
	if _, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 3, uintptr(^uint32(0)), 0); e != 0 {
		goto fail
	}

	step = stepMask
	if _, _, e = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.oldSigs)), 0, 8, 0, 0); e != 0 {
		goto fail
	}
	step = stepExec
	_, _, e = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)), uintptr(unsafe.Pointer(c.argv)), uintptr(unsafe.Pointer(c.envv)))

fail:
	c.step, c.errno = step, uintptr(e)
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, exitFailed, 0, 0)
	}
}

// Supported tells whether the kernel has all that Start needs; a sandbox may forbid some of it.
var Supported = sync.OnceValue(func() bool {
	// clone3 refuses a size of 0 with EINVAL where it exists; close_range refuses a last below first
	// likewise. CLONE_CLEAR_SIGHAND (5.5) is older than close_range (5.9).
	_, _, e := syscall.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	if e != syscall.EINVAL {
		return false
	}
	_, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 1, 0, 0)
	return e == syscall.EINVAL
})
