//go:build (amd64 || arm64) && !portable

package vfork

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The steps of the child. The steps of the parent have their names in place.
const (
	stepNone uintptr = iota
	stepGroup
	stepSession
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
	stepSession:     "setsid",
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
	_          [3]uint64 // stack, stack_size, tls: those of the parent
}

// childArgs has all data of the child. It is made before the clone, because the
// child cannot allocate.
type childArgs struct {
	clone     cloneArgs
	path      *byte
	argv      **byte
	envv      **byte
	dir       *byte
	files     []uintptr
	ownGroup  bool
	session   bool
	deathSig  uintptr
	leash     [2]uintptr
	settings  *Settings
	parentPID uintptr
	allSigs   uint64 // a full mask
	oldSigs   uint64 // the thread's own
	ignore    sigaction
	oldAction sigaction // for the child's own use

	pidfd  int32   // written by the kernel before the child runs
	closed uint32  // written by the child after it has closed its descriptors
	step   uintptr // written by the child if it fails
	errno  uintptr
}

// sigaction is the kernel's struct sigaction on amd64 and arm64.
type sigaction struct {
	handler, flags, restorer, mask uintptr
}

const sigIgn = 1 // SIG_IGN

// jobSignals are the job control signals for stopping a process.
var jobSignals = [...]uintptr{uintptr(syscall.SIGTSTP), uintptr(syscall.SIGTTIN),
	uintptr(syscall.SIGTTOU)}

const exitFailed = 127 // after a failed step; only reap gets it

// Start starts the program and returns its pid and a pidfd, which the caller
// closes. The pidfd is in blocking mode and close-on-exec. If a step fails, Start
// reaps the child and returns an [*Error].
//
// If ctx ends before the exec, Start kills and reaps the child, and returns the
// error of ctx. It still returns only after the child has executed or exited. A
// child may not react to the signal while it waits for a hanging file system.
//
// With a ParentDeathSignal the caller must lock its goroutine to a thread, and keep
// that thread as long as the child shall live.
func Start(ctx context.Context, a *Attr) (pid, pidfd int, err error) {
	c := &childArgs{
		pidfd: -1, settings: a.Settings,
		ignore:    sigaction{handler: sigIgn},
		files:     make([]uintptr, len(a.Files)),
		ownGroup:  a.OwnGroup && !a.NewSession,
		session:   a.NewSession,
		deathSig:  uintptr(a.ParentDeathSignal),
		leash:     [2]uintptr{uintptr(a.Leash[0]), uintptr(a.Leash[1])},
		parentPID: uintptr(syscall.Getpid()),
		allSigs:   ^uint64(0),
	}
	for i, fd := range a.Files {
		c.files[i] = uintptr(fd)
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
		defer clear(secret) // by then the child has executed or ended
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
	if ctx.Err() != nil { // the caller may have closed the files already
		syscall.ForkLock.Unlock()
		runtime.UnlockOSThread()
		return 0, -1, ctx.Err()
	}
	leave := watch(ctx, c)
	upid, errno, step := vfork(c)
	killed := leave()
	runtime.UnlockOSThread()
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)

	if errno != 0 {
		return 0, -1, &Error{Step: step, Err: syscall.Errno(errno)}
	}
	pid, pidfd = int(upid), int(c.pidfd)
	if killed { // perhaps after the exec
		if c.ownGroup || c.session {
			syscall.Kill(-pid, syscall.SIGKILL)
		}
		reap(pid)
		syscall.Close(pidfd)
		return 0, -1, ctx.Err()
	}
	if c.step != stepNone {
		reap(pid)
		syscall.Close(pidfd)
		return 0, -1, c.failure()
	}
	return pid, pidfd, nil
}

// forkLockPatience is how long a start holds syscall.ForkLock while the child
// waits in the kernel. A usual start takes less than a millisecond.
const forkLockPatience = 50 * time.Millisecond

// watch handles a start that hangs. If the child has closed its descriptors and is
// then waiting for its directory or its program, watch releases syscall.ForkLock.
// The lock is there to keep descriptors out of the child. A child that waits
// forever would otherwise block every other start in this process. watch kills the
// child when ctx ends.
//
// The caller calls leave after the child has executed or exited, before it uses the
// pidfd. leave reports whether ctx has ended and watch has tried to kill the child.
func watch(ctx context.Context, c *childArgs) (leave func() (killed bool)) {
	left := make(chan struct{})
	pause := func() (over bool) {
		select {
		case <-left:
			return true
		case <-time.After(time.Millisecond):
			return false
		}
	}
	unlock := sync.OnceFunc(syscall.ForkLock.Unlock)
	timer := time.AfterFunc(forkLockPatience, func() {
		for atomic.LoadUint32(&c.closed) == 0 {
			if pause() {
				return
			}
		}
		unlock()
	})
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		for {
			if pidfd := atomic.LoadInt32(&c.pidfd); pidfd >= 0 {
				unix.PidfdSendSignal(int(pidfd), unix.SIGKILL, nil, 0)
				return
			}
			if pause() { // the clone is about to happen
				return
			}
		}
	})
	return func() bool {
		close(left)
		timer.Stop()
		unlock()
		if stop() {
			return false
		}
		<-killed
		return true
	}
}

// reap reaps a failed child.
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

// The scheduler must know that the thread is in a system call: a garbage
// collection would otherwise wait until the child has executed.
//
//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// vfork blocks signals around the clone.
//
// Between entersyscall and exitsyscall the stack cannot grow, as in
// syscall.Syscall.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func vfork(c *childArgs) (pid, errno uintptr, step string) {
	entersyscall()
	_, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&c.allSigs)), uintptr(unsafe.Pointer(&c.oldSigs)), 8, 0, 0)
	if e != 0 {
		exitsyscall()
		return 0, uintptr(e), "rt_sigprocmask"
	}
	// Only now: c may lie on this goroutine's stack, which cannot move any more.
	c.clone.pidfd = uint64(uintptr(unsafe.Pointer(&c.pidfd)))
	pid, errno = cloneAndExec(c)
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&c.oldSigs)), 0, 8, 0, 0)
	exitsyscall()
	return pid, errno, "clone3"
}

// cloneAndExec returns in the parent only. In the child it never returns, so the
// child does not overwrite the stack frames of the callers. The parent will use
// them again.
//
// Only raw system calls are allowed here and in the functions below: nothing may
// grow the stack, allocate, take a lock or be preempted.
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
	step, e := becomeProgram(c)
	c.step, c.errno = step, uintptr(e)
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, exitFailed, 0, 0)
	}
}

// becomeProgram executes the program in the child. It returns if a step fails.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func becomeProgram(c *childArgs) (step uintptr, e syscall.Errno) {
	var r uintptr
	if c.session {
		if _, _, e = syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0); e != 0 {
			return stepSession, e
		}
	}
	if c.ownGroup {
		if _, _, e = syscall.RawSyscall(syscall.SYS_SETPGID, 0, 0, 0); e != 0 {
			return stepGroup, e
		}
	}
	if c.session || c.ownGroup {
		// A Ctrl-Z that was sent to the parent's group before this process
		// left it is still pending. It would stop the child in its own group,
		// where the terminal's SIGCONT does not reach it. Ignoring a signal
		// discards it (sigaction(2)). Then the old action is set again: the
		// default, or SIG_IGN that was inherited.
		for i := 0; i < len(jobSignals); i++ {
			syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, jobSignals[i],
				uintptr(unsafe.Pointer(&c.ignore)), uintptr(unsafe.Pointer(&c.oldAction)), 8, 0, 0)
			syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, jobSignals[i],
				uintptr(unsafe.Pointer(&c.oldAction)), 0, 8, 0, 0)
		}
	}
	if step, e = dieWithParent(c); e != 0 {
		return step, e
	}
	if c.leash[0] != 0 {
		r, _, _ = syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
		for i := 0; i < len(c.leash); i++ { // an error leaves the parent-death signal
			syscall.RawSyscall(syscall.SYS_FCNTL, c.leash[i], syscall.F_SETOWN, -r)
		}
	}
	if step, e = keepFiles(c); e != 0 {
		return step, e
	}

	// The directory and the program come last, because a file system may not
	// answer; see watch. A frozen control group does not go on either.
	c.closed = 1
	if c.settings != nil {
		if step, e = set(c); e != 0 {
			return step, e
		}
	}
	if c.dir != nil {
		if _, _, e = syscall.RawSyscall(syscall.SYS_CHDIR,
			uintptr(unsafe.Pointer(c.dir)), 0, 0); e != 0 {
			return stepDir, e
		}
	}
	if _, _, e = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&c.oldSigs)), 0, 8, 0, 0); e != 0 {
		return stepMask, e
	}
	_, _, e = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)),
		uintptr(unsafe.Pointer(c.argv)), uintptr(unsafe.Pointer(c.envv)))
	return stepExec, e
}

// keepFiles makes c.files the descriptors from 0 on, and closes all others.
//
//go:noinline
//go:nosplit
//go:norace
//go:nocheckptr
func keepFiles(c *childArgs) (step uintptr, e syscall.Errno) {
	var r uintptr
	files := c.files
	n := uintptr(len(files))
	// First move low descriptors out of the way, then duplicate each to its number.
	for i := range files {
		if files[i] < n && files[i] != uintptr(i) {
			if r, _, e = syscall.RawSyscall(syscall.SYS_FCNTL, files[i],
				syscall.F_DUPFD_CLOEXEC, n); e != 0 {
				return stepFiles, e
			}
			files[i] = r
		}
	}
	for i := range files {
		if files[i] == uintptr(i) {
			// clears close-on-exec
			_, _, e = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(i), syscall.F_SETFD, 0)
		} else {
			_, _, e = syscall.RawSyscall(syscall.SYS_DUP3, files[i], uintptr(i), 0)
		}
		if e != 0 {
			return stepFiles, e
		}
	}
	_, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, n, uintptr(^uint32(0)), 0)
	return stepCloseRange, e
}

// Supported reports whether the kernel has the system calls of Start. A sandbox may
// still forbid some.
var Supported = sync.OnceValue(func() bool {
	// If clone3 exists, it returns EINVAL for a size of 0. close_range does so
	// for a last below first. CLONE_CLEAR_SIGHAND (5.5) is older than close_range
	// (5.9).
	_, _, e := syscall.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	if e != syscall.EINVAL {
		return false
	}
	_, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 1, 0, 0)
	return e == syscall.EINVAL
})
