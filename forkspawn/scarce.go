package forkspawn

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ResourceError says that something could not be had because the system lacks it or limits it: which
// limit that is, and what helps. It is in the chain of the errors of New, of a [*BootError] of phase start
// or connect, of StartProcess, and of Join. errors.Is finds the system's error in it:
//
//   - syscall.EMFILE: this process may have no more descriptors, RLIMIT_NOFILE. syscall.ENFILE: the machine
//     may have none (fs.file-max), or this user no more pipes (fs.pipe-user-pages-hard).
//   - syscall.EAGAIN: this user may have no more processes and threads, RLIMIT_NPROC, or a control
//     group (pids.max) or the machine (kernel.threads-max, kernel.pid_max) may not.
//   - syscall.ENOMEM: there is no memory for a process.
//   - syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, fs.ErrNotExist, fs.ErrPermission and a [*uds.PathError]:
//     there is no place for the socket, or no null device.
//
// A Spawner outlives it: when the scarcity has passed it starts children as before.
type ResourceError struct {
	Resource string // the limit and how high it is, or what is missing
	Remedy   string // what helps
	Err      error  // what the system said
}

func (e *ResourceError) Error() string {
	return fmt.Sprintf("%v (%s): %s", e.Err, e.Resource, e.Remedy)
}
func (e *ResourceError) Unwrap() error { return e.Err }

// explainScarcity makes an error a ResourceError where a want of descriptors, memory or space is the reason.
func explainScarcity(err error) error {
	if err == nil {
		return nil // a child's start comes by here
	}
	if resource := (*ResourceError)(nil); errors.As(err, &resource) {
		return err
	}
	for _, s := range []struct {
		errno            syscall.Errno
		resource, remedy string
	}{
		{syscall.EMFILE, "RLIMIT_NOFILE" + limitNow(limitDescriptors), "close descriptors of this process, or raise the limit with ulimit -n"},
		{syscall.ENFILE, "fs.file-max or fs.pipe-user-pages-hard is reached", "close descriptors of any process, or raise the limit with sysctl"},
		{syscall.ENOMEM, "memory, or its limit in a control group", "free memory, or raise the limit"},
		{syscall.ENOSPC, "space or inodes of the file system; or fs.epoll.max_user_watches", "free some, or choose another place"},
		{syscall.EDQUOT, "this user's quota of the file system", "free some, or choose another place"},
	} {
		if errors.Is(err, s.errno) {
			return &ResourceError{s.resource, s.remedy, err}
		}
	}
	return err
}

// explainStart is explainScarcity for the start of a process.
func explainStart(err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return &ResourceError{
			"RLIMIT_NPROC" + limitNow(limitProcesses) + "; or pids.max of a control group, or kernel.threads-max, is reached",
			"end processes or threads of this user, or raise the limit with ulimit -u", err}
	case errors.Is(err, syscall.ENOMEM):
		return &ResourceError{
			"memory, or its limit in a control group; or the first process of the pid namespace has ended",
			"free memory, or raise the limit", err}
	}
	return explainScarcity(err)
}

// noPlace is explainScarcity for the socket's private directory.
func noPlace(err error) error {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return explainScarcity(err)
	}
	return &ResourceError{"a private directory for the socket",
		"set TMPDIR to a directory with a short path that this process can write to, or Config.Listen to tcp://127.0.0.1:0", err}
}

// noNullDevice is explainScarcity for the null device.
func noNullDevice(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return &ResourceError{"the null device, for a standard stream of the child",
			"make it (mknod " + os.DevNull + " c 1 3), or give the stream a File", err}
	}
	return explainScarcity(err)
}
