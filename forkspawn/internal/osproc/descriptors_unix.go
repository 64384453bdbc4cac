//go:build unix

package osproc

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc/vfork"
)

// marking serializes startMarked, because two calls at once would confuse their
// marks.
var marking sync.Mutex

// startMarked starts a program with syscall.ForkExec. It marks all descriptors
// close-on-exec for the moment of the fork. If another thread opens a descriptor
// without close-on-exec in this moment, the child gets it.
func startMarked(
	path string, args, env []string, fds []int, attr *Attr,
) (pid, pidfd int, err error) {
	marking.Lock()
	defer marking.Unlock()
	leaks, err := leakingDescriptors()
	if err != nil {
		return 0, -1, err
	}
	for _, fd := range leaks {
		unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
	defer func() {
		for _, fd := range leaks {
			unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
		}
	}()
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	pidfd = -1
	sys := sysProcAttr(attr, &pidfd)
	if attr.Settings != nil && attr.Settings.Credential != nil {
		to := attr.Settings.Credential
		sys.Credential = &syscall.Credential{Uid: to.UID, Gid: to.GID, Groups: to.Groups}
	}
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir: attr.Dir, Env: env, Sys: sys, Files: files,
	})
	if errors.Is(err, syscall.EBADF) {
		// The child moves descriptors above those in use. There is no such number
		// when the limit is near (dup2(2)).
		err = syscall.EMFILE
	}
	return pid, pidfd, err
}

// checkPortable returns an error if syscall.ForkExec cannot make one of the settings.
func checkPortable(s *vfork.Settings) error {
	if s == nil {
		return nil
	}
	for _, setting := range []struct {
		name string
		set  bool
	}{
		{"Cgroup", s.Cgroup != nil}, {"Nice", s.Nice != nil}, {"Umask", s.Umask != nil},
		{"Limits", s.Limits != nil}, {"NoNewPrivileges", s.NoNewPrivs},
	} {
		if setting.set {
			return &vfork.Error{Setting: true, Err: syscall.ENOTSUP, Step: "Command.Sys." +
				setting.name + " needs clone3 and close_range of Linux 5.9, on amd64 or arm64"}
		}
	}
	return nil
}

// leakingDescriptors returns the descriptors above 2 without close-on-exec.
func leakingDescriptors() ([]int, error) {
	dir, err := os.Open(fdDir)
	if err != nil {
		return probeDescriptors(), nil // for example, there is no /proc
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return nil, err
	}
	var leaks []int
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && leaking(fd) {
			leaks = append(leaks, fd)
		}
	}
	return leaks, nil
}

// maxProbed bounds probeDescriptors, because a limit of a billion descriptors would
// take minutes.
const maxProbed = 1 << 16

// probeDescriptors is leakingDescriptors without /proc.
func probeDescriptors() []int {
	limit := uint64(maxProbed)
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		limit = min(limit, uint64(r.Cur))
	}
	var leaks []int
	for fd := 3; fd < int(limit); fd++ {
		if leaking(fd) {
			leaks = append(leaks, fd)
		}
	}
	return leaks
}

// KeepToSelf sets close-on-exec of a descriptor that this process has inherited. It
// reports whether there is such a descriptor.
func KeepToSelf(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return err == nil
}

// leaking reports whether fd is open, above 2, and not close-on-exec.
func leaking(fd int) bool {
	if fd <= 2 {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0 // EBADF is the descriptor of the listing itself
}
