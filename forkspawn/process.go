package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
)

const (
	sigkill = syscall.SIGKILL
	sigcont = osproc.SIGCONT
)

// Process is a running process, as [StartProcess] returns it. A custom runtime
// implements Process and [Config.Start] for its own way to start processes. The
// handshake, the boot race, the stop ladder and the errors of this package remain
// the same. The methods of a Process are called concurrently.
type Process interface {
	// PID returns the process id, as the kernel reports it on a Unix socket,
	// or 0 if there is none.
	PID() int
	// Wait waits until the process has ended and returns its status, and
	// returns the same when called again. It must not wait for pipes that the
	// process or its children had open.
	Wait() ExitStatus
	// Signal sends a signal to the process, and SignalGroup to its whole
	// process group. If the process has ended, the error matches
	// os.ErrProcessDone.
	Signal(sig syscall.Signal) error
	SignalGroup(sig syscall.Signal) error
}

// Command is a program with its arguments and environment.
type Command struct {
	// Path is the program: a path, or a name to find in PATH. "" is this very
	// program. On Linux it is started through /proc/self/exe, so the file may
	// have been replaced.
	Path string
	// Args are the arguments without the program's name.
	Args []string
	// Env is the environment, as "key=value". If Env is nil, it is this
	// process's own. Of several entries with the same key the last one is
	// used, as in os/exec. Spawn always sets SPAWNWIRE_TICKET.
	Env []string
	// NewSession makes the process the leader of a new session (setsid(2)), so it
	// has no controlling terminal. A program that asks for a password there,
	// such as ssh, then fails with its own message. Otherwise the terminal
	// stops it, because children are not in the foreground. A command with
	// NewSession is executed, not forked from a template.
	NewSession bool
	// TicketOnStdin puts the ticket on the child's stdin, and not into its
	// environment. It is for programs that clear the environment before they
	// execute the child, such as sudo. [Init] and [Join] read it on Linux; other
	// programs do not look for it. Config.Stdin must be zero. A command with
	// TicketOnStdin is executed, not forked from a template.
	TicketOnStdin bool
	// Launcher starts the command in another place: on another machine or in a
	// container; see packages launch/ssh and launch/oci. Nil starts it here. Values
	// of its type must be comparable.
	Launcher Launcher
	// Files are more files for the process, by name: a file, a pipe, or what File
	// of a listener returns. A child gets them from [Parent.File]. They remain the
	// caller's, who closes them after the last start. A name has neither '=' nor
	// ','. Spares get the Files of Config.Command at their start. Programs find
	// the descriptors in the variable SPAWNWIRE_FILES, as in "db=3,log=4".
	//
	// A program before the child that closes descriptors, such as sudo, loses
	// them. With MethodForkserver over TCP or TLS such a command is executed.
	Files map[string]*os.File
	// Connections makes [Child.Open] and [Parent.Accept] possible, for children that
	// start on this machine. They are not available on Windows.
	Connections bool
	// Sys has resource limits, the user, and other attributes of the process. A command
	// with Sys is executed, not forked from a template, and cannot have a Launcher. A
	// spare serves it only if Config.Command has the same pointer.
	Sys *SysAttr
	// Releasable makes [Child.Release] possible, so the child can outlive this process.
	// It is available on Linux, for a child of the same user on this machine that
	// calls [Parent.Next]. Its streams must not need this process: each is [Null],
	// [Inherit] or [File], and Stderr must be set. Config.Subreaper, Config.Start and
	// Config.AllowOtherUsers exclude it. Otherwise Spawn's error is a [*ConfigError].
	//
	// As long as such a child is not released, the kernel kills its whole process
	// group when this process ends.
	Releasable bool
}

// internal returns c as package osproc takes it.
func (c Command) internal() osproc.Command {
	return osproc.Command{Path: c.Path, Args: c.Args, Env: c.Env, NewSession: c.NewSession,
		Settings: c.Sys.internal()}
}

// ProcessAttr is what [StartProcess] starts.
type ProcessAttr struct {
	Command
	// Dir is the working directory. "" is this process's own.
	Dir string
	// Stdin, Stdout and Stderr become the descriptors 0, 1 and 2 of the
	// process. nil is the null device.
	Stdin, Stdout, Stderr *os.File
	// OwnGroup makes the process the leader of a new process group. When it
	// has ended, the rest of the group is killed.
	OwnGroup bool
	// ParentDeathSignal is sent to the process when the thread that started it
	// ends (PR_SET_PDEATHSIG in prctl(2)). Zero is none. The caller must lock
	// its goroutine to its thread, and keep that thread as long as the process
	// shall live (golang/go#27505). It has an effect on Linux only.
	ParentDeathSignal syscall.Signal

	ticket []byte // one more entry of Env, erased by its owner; nil if Env has it
	leash  bool   // the kernel kills its process group when this process ends
}

// internal returns attr as package osproc takes it.
func (attr *ProcessAttr) internal() *osproc.Attr {
	files, variable := attr.Command.files()
	if files != nil {
		attr.Env = append(osproc.Without(attr.Env, template.FilesEnv), variable)
	}
	return &osproc.Attr{
		Files: files, Command: attr.Command.internal(), Secret: attr.ticket, Dir: attr.Dir,
		Stdin: attr.Stdin, Stdout: attr.Stdout, Stderr: attr.Stderr,
		OwnGroup: attr.OwnGroup, ParentDeathSignal: attr.ParentDeathSignal, Leash: attr.leash,
	}
}

// StartProcess starts a program with the descriptors 0, 1 and 2, and those of Files,
// only. It passes no others on, even if this process has some without close-on-exec. The flags of
// this process's descriptors do not change. The caller must call
// Wait in the end.
//
// If the start fails, nothing is left. The error matches an [*fs.PathError] with
// the program's path and the system's error, for example fs.ErrNotExist,
// fs.ErrPermission or syscall.ENOEXEC. If processes, memory or
// descriptors are lacking, the error is a [*ResourceError]. On Windows no process
// can be started, and the error matches errors.ErrUnsupported.
//
// On Linux 5.9 or newer on amd64 and arm64, the child closes all other descriptors
// itself between fork and exec. On other systems, StartProcess marks the
// descriptors close-on-exec for the moment of the fork.
//
// The process inherits this process's current soft limit of open files
// (RLIMIT_NOFILE), which the Go runtime has raised to the hard limit. Package
// os/exec would restore the limit from before.
func StartProcess(attr ProcessAttr) (Process, error) {
	return startProcess(context.Background(), &attr)
}

// startProcess is StartProcess with a context that ends the wait for a child
// before its exec.
func startProcess(ctx context.Context, attr *ProcessAttr) (Process, error) {
	if !osproc.CanExec {
		return nil, fmt.Errorf("forkspawn: starting processes on %s: %w",
			runtime.GOOS, errUnsupported())
	}
	if err := attr.Command.checkFiles(); err != nil {
		return nil, err
	}
	if err := attr.Command.Sys.check(); err != nil {
		return nil, err
	}
	p, err := osproc.Start(ctx, attr.internal())
	if err != nil {
		return nil, publicError(err)
	}
	return osProcess{p}, nil
}

// osProcess is a Process of the operating system.
type osProcess struct{ *osproc.Process }

func (p osProcess) Wait() ExitStatus { return ExitStatus{p.Process.Wait()} }

// onThread calls start on the Spawner's thread. It makes the process known to the
// subreaper and to the forkserver as the Spawner's own.
func (s *Spawner) onThread(
	ctx context.Context, program, dir string, start func() (Process, error),
) (Process, error) {
	var p Process
	err := s.thread.Do(ctx, program, dir, func() error {
		return s.reaper.Start(func() (pid int, err error) {
			if p, err = start(); err != nil {
				return 0, err
			}
			s.forks.started(p)
			return p.PID(), nil
		})
	}, func() {
		if p != nil {
			p.SignalGroup(sigkill)
			p.Wait()
		}
	})
	if err != nil {
		return nil, publicError(err)
	}
	return p, nil
}

// ResourceError reports that the system lacks or limits something. It is in the
// chain of the errors of New, StartProcess and Join, and of a [*BootError] of
// phase start or connect. When the shortage has passed, the same Spawner can
// start children again.
//
// errors.Is and errors.As find the system's error in it:
//
//   - syscall.EMFILE: this process has too many descriptors (RLIMIT_NOFILE).
//   - syscall.ENFILE: the machine has too many descriptors (fs.file-max), or this
//     user too many pipes (fs.pipe-user-pages-hard).
//   - syscall.EAGAIN: this user has too many processes and threads
//     (RLIMIT_NPROC), or a control group (pids.max) or the machine
//     (kernel.threads-max, kernel.pid_max) has.
//   - syscall.ENOMEM: there is no memory for a process.
//   - syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, fs.ErrNotExist and
//     fs.ErrPermission: there is no place for the socket, or no null device.
type ResourceError struct {
	Resource string // the limit and its value, or the missing thing
	Remedy   string // what the user can do

	err error // the system's error
}

func (e *ResourceError) Error() string {
	return fmt.Sprintf("%v (%s): %s", e.err, e.Resource, e.Remedy)
}

// Unwrap returns the system's error.
func (e *ResourceError) Unwrap() error { return e.err }

// publicError converts a ResourceError of package osproc.
func publicError(err error) error {
	if e, ok := err.(*osproc.ResourceError); ok { //nolint:errorlint // one that is wrapped stays
		return &ResourceError{e.Resource, e.Remedy, e.Err}
	}
	return err
}

// explainScarcity returns a ResourceError if err is about a lack of descriptors,
// memory or space, and err otherwise.
func explainScarcity(err error) error {
	if resource := (*ResourceError)(nil); err == nil || errors.As(err, &resource) {
		return err
	}
	return publicError(osproc.ExplainScarcity(err))
}
