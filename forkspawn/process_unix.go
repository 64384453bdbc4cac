//go:build unix

package forkspawn

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/vfork"
)

const sigcont = syscall.SIGCONT

// OSProcess is a process that StartProcess started. Its methods may be called concurrently.
type OSProcess struct {
	pid      int
	ownGroup bool
	handle   handle // the platform's hold on it

	once   sync.Once // the wait
	status ExitStatus

	mu     sync.Mutex // guards reaped: no signal goes to a number that was given back; never held while waiting
	reaped bool
}

// StartProcess starts a program that keeps only stdio: descriptors 0, 1 and 2 and nothing else, whatever
// this process has open without close-on-exec. This process's descriptors keep their flags.
//
// On linux/amd64 with kernel 5.9 or newer the child closes everything else itself between fork and
// exec. Elsewhere the descriptors that are not close-on-exec are marked so for the moment of the fork.
//
// The soft limit of open files (RLIMIT_NOFILE) that the child gets is this process's, which the Go
// runtime raises to the hard limit at start.
//
// The error of a failed start matches an [*fs.PathError] with the program's path and the system's error:
// fs.ErrNotExist, fs.ErrPermission, syscall.ENOEXEC for a file that is no program of this
// machine, and so on; for want of processes, memory or descriptors a [*ResourceError] says more. Nothing is
// left then. The caller calls Wait in the end.
func StartProcess(attr ProcessAttr) (*OSProcess, error) {
	path, args, err := attr.resolve()
	if err != nil {
		return nil, err
	}
	files, release, err := startFiles(&attr)
	if err != nil {
		return nil, noNullDevice(err)
	}
	defer release()
	env := attr.Env
	if env == nil {
		env = os.Environ()
	}
	env = lastOfEach(env)
	fds := [3]int{}
	for i, f := range files {
		fd := int(f.Fd())
		if fd < 0 {
			return nil, &fs.PathError{Op: "start", Path: f.Name(), Err: os.ErrClosed}
		}
		fds[i] = fd
	}
	var pid, pidfd int
	for try := 0; ; try++ {
		pid, pidfd, err = start(path, args, env, fds, &attr)
		if try < tryTextBusy && errors.Is(err, syscall.ETXTBSY) {
			time.Sleep(time.Millisecond << try)
			continue
		}
		break
	}
	runtime.KeepAlive(files)
	if err != nil {
		step := "exec"
		var verr *vfork.Error
		if errors.As(err, &verr) {
			err = verr.Err
			if verr.Step != "execve" {
				step = verr.Step
			}
		}
		name := attr.Path
		if name == "" {
			name = path
		}
		if attr.Dir != "" && (step == "chdir" || dirMissing(attr.Dir)) {
			step, name = "chdir", attr.Dir
		}
		return nil, explainStart(&fs.PathError{Op: step, Path: name, Err: err})
	}
	return &OSProcess{pid: pid, ownGroup: attr.OwnGroup, handle: newHandle(pid, pidfd)}, nil
}

// dirMissing tells whether a start failed for want of its directory, where the system's error is the
// same as for a missing program.
func dirMissing(dir string) bool {
	st, err := os.Stat(dir)
	return err != nil || !st.IsDir()
}

// start starts the process in the better way where that works. A sandbox (gVisor, seccomp) can have the
// system calls and still refuse what is asked of them.
func start(path string, args, env []string, fds [3]int, attr *ProcessAttr) (pid, pidfd int, err error) {
	if vfork.Supported() {
		pid, pidfd, err = vfork.Start(&vfork.Attr{
			Path: path, Args: args, Env: env, Secret: attr.ticket, Dir: attr.Dir, Files: fds,
			OwnGroup: attr.OwnGroup, ParentDeathSignal: attr.ParentDeathSignal,
		})
		var verr *vfork.Error
		refused := errors.As(err, &verr) && (verr.Step == "clone3" || verr.Step == "close_range") &&
			(verr.Err == syscall.EINVAL || verr.Err == syscall.ENOSYS || verr.Err == syscall.EPERM)
		if !refused {
			return pid, pidfd, err
		}
	}
	if attr.ticket != nil {
		env = append(env, string(attr.ticket))
	}
	return startMarked(path, args, env, fds, attr)
}

// PID returns the process's id.
func (p *OSProcess) PID() int { return p.pid }

// Wait blocks until the process has ended and returns its status, also when called again. It costs no
// thread on Linux 5.4 and newer. With OwnGroup whatever is left of the group is killed before the
// process's number is given back, so that the kill cannot meet a stranger.
func (p *OSProcess) Wait() ExitStatus {
	p.once.Do(func() { p.status = p.wait() })
	return p.status
}

// runs tells whether the process has neither ended nor is stopped, as far as the kernel tells.
func (p *OSProcess) runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.reaped && p.handle.runs(p.pid)
}

// Signal sends a signal to the process or, with group, to its process group, if it has its own. It goes
// through the pidfd where there is one. After Wait has returned it sends nothing and returns
// os.ErrProcessDone.
func (p *OSProcess) Signal(sig syscall.Signal, group bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	var err error
	if group && p.ownGroup {
		err = syscall.Kill(-p.pid, sig)
	} else {
		err = p.handle.signal(p.pid, sig)
	}
	if err == syscall.ESRCH {
		return os.ErrProcessDone
	}
	return err
}
