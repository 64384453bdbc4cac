//go:build unix

package osproc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc/vfork"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// The signals of job control.
const (
	SIGTTIN = syscall.SIGTTIN
	SIGTTOU = syscall.SIGTTOU
)

// SIGCONT is syscall.SIGCONT. Windows has none.
const SIGCONT = syscall.SIGCONT

// SIGCHLD is the signal for the end of a child.
const SIGCHLD = syscall.SIGCHLD

// Process is a process started by Start. Its methods may be called concurrently.
type Process struct {
	pid      int
	ownGroup bool
	handle   handle
	leash    *leash // nil without one

	once   sync.Once // runs wait
	status Status
	usage  Usage

	mu     sync.Mutex // guards reaped; not held while waiting
	reaped bool       // the pid can belong to another process
}

// Start starts a program with the descriptors of attr only. forkspawn's
// StartProcess documents it. A [*ResourceError] is always the outermost error. The
// caller calls Wait in the end. If ctx ends before the exec, Start kills the child.
func Start(ctx context.Context, attr *Attr) (*Process, error) {
	path, args, err := attr.resolve()
	if err != nil {
		return nil, err
	}
	files, release, err := StandardFiles(attr)
	if err != nil {
		return nil, err
	}
	defer release()
	env := attr.Env
	if env == nil {
		env = os.Environ()
	}
	env = LastOfEach(env)
	fds, err := Descriptors(files[:])
	if err != nil {
		return nil, err
	}
	inherited := attr.Files
	if attr.Settings != nil && attr.Settings.Cgroup != nil {
		inherited = append(slices.Clip(inherited), attr.Settings.Cgroup)
	}
	more, err := Descriptors(inherited)
	if err != nil {
		return nil, err
	}
	fds = append(fds, more...)
	var lead *leash
	if attr.Leash {
		if lead, err = newLeash(); err != nil {
			return nil, ExplainScarcity(err)
		}
	}
	var pid, pidfd int
	for try := 0; ; try++ {
		pid, pidfd, err = start(ctx, path, args, env, fds, attr, lead)
		if try < tryTextBusy && errors.Is(err, syscall.ETXTBSY) {
			time.Sleep(time.Millisecond << try)
			continue
		}
		break
	}
	runtime.KeepAlive(files)
	runtime.KeepAlive(inherited)
	if err != nil {
		lead.close()
		return nil, explain(ctx, err, path, attr)
	}
	p := Adopt(pid, pidfd, attr.OwnGroup)
	p.leash = lead
	return p, nil
}

// explain returns the error of a start that has failed with err.
func explain(ctx context.Context, err error, path string, attr *Attr) error {
	if resource := (*ResourceError)(nil); errors.As(err, &resource) {
		return resource
	}
	if ctx.Err() != nil {
		return wait.Cause(ctx)
	}
	step := "exec"
	name := cmp.Or(attr.Path, path)
	var verr *vfork.Error
	if errors.As(err, &verr) {
		err = verr.Err
		switch {
		case verr.Setting:
			return &fs.PathError{Op: "start", Path: name, Err: fmt.Errorf("%s: %w", verr.Step, err)}
		case verr.Step != "execve":
			step = verr.Step
		}
	}
	if attr.Dir != "" && (step == "chdir" || dirMissing(attr.Dir)) {
		step, name = "chdir", attr.Dir
	}
	return ExplainStart(&fs.PathError{Op: step, Path: name, Err: err})
}

// Descriptors returns the descriptors of files. It does not change their mode.
func Descriptors(files []*os.File) ([]int, error) {
	fds := make([]int, len(files), len(files)+3)
	for i, f := range files {
		conn, err := f.SyscallConn()
		if err == nil {
			err = conn.Control(func(fd uintptr) { fds[i] = int(fd) })
		}
		if err != nil {
			return nil, &fs.PathError{Op: "start", Path: f.Name(), Err: os.ErrClosed}
		}
	}
	return fds, nil
}

// Adopt returns a Process for a child that was not started by Start. It takes over
// pidfd, which may be -1.
func Adopt(pid, pidfd int, ownGroup bool) *Process {
	return &Process{pid: pid, ownGroup: ownGroup, handle: newHandle(pid, pidfd)}
}

// dirMissing reports whether the working directory is missing. The system's error
// is the same for a missing program.
func dirMissing(dir string) bool {
	st, err := os.Stat(dir)
	return err != nil || !st.IsDir()
}

// start uses package vfork if it works here, and startMarked otherwise. A sandbox
// (gVisor, seccomp) can have the system calls and still refuse their arguments.
func start(
	ctx context.Context, path string, args, env []string, fds []int, attr *Attr, lead *leash,
) (pid, pidfd int, err error) {
	if attr.Settings != nil && attr.Settings.Credential != nil {
		if err := maySignal(attr.Settings.Credential.UID); err != nil {
			return 0, -1, err
		}
		defer keepDumpable()()
	}
	if vfork.Supported() {
		pid, pidfd, err = vfork.Start(ctx, &vfork.Attr{
			Path: path, Args: args, Env: env, Secret: attr.Secret, Dir: attr.Dir, Files: fds,
			OwnGroup: attr.OwnGroup, NewSession: attr.NewSession,
			ParentDeathSignal: attr.ParentDeathSignal, Leash: lead.descriptors(),
			Settings: attr.Settings,
		})
		var verr *vfork.Error
		refused := errors.As(err, &verr) && (verr.Step == "clone3" || verr.Step == "close_range") &&
			slices.Contains([]syscall.Errno{syscall.EINVAL, syscall.ENOSYS, syscall.EPERM,
				syscall.EACCES}, verr.Err)
		if !refused {
			return pid, pidfd, err
		}
	}
	if err := checkPortable(attr.Settings); err != nil {
		return 0, -1, err
	}
	if err := awaitFiles(ctx, path, attr.Dir); err != nil {
		return 0, -1, err
	}
	if attr.Secret != nil {
		env = append(env, string(attr.Secret))
	}
	pid, pidfd, err = startMarked(path, args, env, fds, attr)
	if err == nil {
		lead.hold(pid)
	}
	return pid, pidfd, err
}

// awaitFiles waits until the file systems of the program and of the directory
// answer. A child of syscall.ForkExec that waits for one of them blocks every other
// start in this process. If ctx ends, the error is a [*ResourceError].
func awaitFiles(ctx context.Context, path, dir string) error {
	for _, file := range []string{path, dir} {
		if file != "" && !wait.ForFile(ctx, file) { // another error comes from the start
			return Unanswered(file, wait.Cause(ctx))
		}
	}
	return nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.pid }

// Wait waits until the process has ended and returns its status. It may be called
// again. With OwnGroup it kills the rest of the group before it reaps the process,
// because then the kernel can use the group's id again. On Linux 5.4 and newer it
// occupies no thread.
func (p *Process) Wait() Status {
	p.once.Do(func() {
		p.status = p.wait()
		p.leash.close()
	})
	return p.status
}

// Usage returns what the process has used. It is zero before Wait has returned, and if
// other code has reaped the process.
func (p *Process) Usage() Usage { return p.usage }

// usageOf converts what wait4(2) and waitid(2) return. Its memory is in units of unit
// bytes.
func usageOf(r *syscall.Rusage, unit int64) Usage {
	return Usage{time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano()),
		int64(r.Maxrss) * unit}
}

// Runs reports whether the process neither has ended nor is stopped. If the
// platform cannot know, it returns true.
func (p *Process) Runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.reaped && p.handle.runs(p.pid)
}

// StoppedBy returns the signal that has stopped the process, or 0 if it is not
// stopped or the platform cannot tell.
func (p *Process) StoppedBy() syscall.Signal {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return 0
	}
	return p.handle.stoppedBy(p.pid)
}

// Signal sends a signal to the process. After Wait has returned, it sends nothing
// and returns os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.whileUnreaped(func() error { return p.handle.signal(p.pid, sig) })
}

// SignalGroup is Signal for the process's own group. Without OwnGroup it is Signal.
func (p *Process) SignalGroup(sig syscall.Signal) error {
	if !p.ownGroup {
		return p.Signal(sig)
	}
	return p.whileUnreaped(func() error { return syscall.Kill(-p.pid, sig) })
}

// whileUnreaped calls send, unless the process was reaped.
func (p *Process) whileUnreaped(send func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	err := send()
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// blocking returns nil if f is in blocking mode. Otherwise it returns the same
// file, opened again in blocking mode, or nil after it has changed f's own mode.
func blocking(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, &fs.PathError{Op: "start", Path: f.Name(), Err: os.ErrClosed}
	}
	var again *os.File
	cerr := conn.Control(func(fd uintptr) {
		flags, ferr := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if ferr != nil || flags&unix.O_NONBLOCK == 0 {
			err = ferr
			return
		}
		// Without O_NONBLOCK the open of a FIFO waits for its other end.
		path := fdDir + "/" + strconv.Itoa(int(fd))
		mode := flags&unix.O_ACCMODE | flags&unix.O_APPEND
		if fd, oerr := unix.Open(path,
			mode|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0); oerr == nil {
			if err = unix.SetNonblock(fd, false); err == nil {
				again = os.NewFile(uintptr(fd), f.Name())
				return
			}
			unix.Close(fd)
		}
		err = unix.SetNonblock(int(fd), false)
	})
	if cerr != nil {
		err = os.ErrClosed
	}
	if err != nil {
		return nil, &fs.PathError{Op: "start", Path: f.Name(), Err: err}
	}
	return again, nil
}
