package osproc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ResourceError reports that the system lacks or limits something. Package
// forkspawn converts it to its own ResourceError.
type ResourceError struct {
	Resource string // the limit and its value, or the missing thing
	Remedy   string // what the user can do
	Err      error  // the system's error
}

func (e *ResourceError) Error() string {
	return fmt.Sprintf("%v (%s): %s", e.Err, e.Resource, e.Remedy)
}
func (e *ResourceError) Unwrap() error { return e.Err }

// ExplainScarcity returns a ResourceError if err is about a lack of descriptors,
// memory or space, and err otherwise.
func ExplainScarcity(err error) error {
	if err == nil {
		return nil // the fast path of a start
	}
	if resource := (*ResourceError)(nil); errors.As(err, &resource) {
		return err
	}
	for _, s := range []struct {
		errno            syscall.Errno
		resource, remedy string
	}{
		{syscall.EMFILE, "RLIMIT_NOFILE" + limitNow(limitDescriptors),
			"close descriptors of this process, or raise the limit with ulimit -n"},
		{syscall.ENFILE, "fs.file-max or fs.pipe-user-pages-hard is reached",
			"close descriptors of any process, or raise the limit with sysctl"},
		{syscall.ENOMEM, "memory, or its limit in a control group",
			"free memory, or raise the limit"},
		{syscall.ENOSPC, "space or inodes of the file system; or fs.epoll.max_user_watches",
			"free some, or choose another place"},
		{syscall.EDQUOT, "this user's quota of the file system",
			"free some, or choose another place"},
	} {
		if errors.Is(err, s.errno) {
			return &ResourceError{s.resource, s.remedy, err}
		}
	}
	return err
}

// ExplainStart is ExplainScarcity for the start of a process.
func ExplainStart(err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return &ResourceError{
			"RLIMIT_NPROC" + limitNow(limitProcesses) +
				"; or pids.max of a control group, or kernel.threads-max, is reached",
			"end processes or threads of this user, or raise the limit with ulimit -u", err}
	case errors.Is(err, syscall.ENOMEM):
		return &ResourceError{
			"memory, or its limit in a control group; or the first process of the pid namespace has ended",
			"free memory, or raise the limit", err}
	case errors.Is(err, syscall.E2BIG):
		return &ResourceError{
			"the size of the arguments and the environment: 128 KiB for one string, a quarter of RLIMIT_STACK for all (execve(2))",
			"make them smaller, or put the data into Spec.Args", err}
	}
	return ExplainScarcity(err)
}

// NoPlace is ExplainScarcity for the socket's private directory.
func NoPlace(err error) error {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return ExplainScarcity(err)
	}
	return &ResourceError{"a private directory for the socket",
		"set TMPDIR to a directory with a short path that this process can write to, or Config.Listen to tcp://127.0.0.1:0", err}
}

// NoNullDevice is ExplainScarcity for the null device.
func NoNullDevice(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return &ResourceError{"the null device, for a standard stream of the child",
			"make it (mknod " + os.DevNull + " c 1 3), or give the stream a File", err}
	}
	return ExplainScarcity(err)
}
