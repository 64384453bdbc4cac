//go:build unix

package forkspawn

import (
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// marking serialises startMarked: two at once would take each other's marks for the caller's.
var marking sync.Mutex

// startMarked starts a program where the child cannot be made to close descriptors itself. Those that are
// not close-on-exec are marked so for the moment of the fork, and unmarked after it. What another
// thread opens without close-on-exec in just that moment gets through.
func startMarked(path string, args, env []string, fds [3]int, attr *ProcessAttr) (pid, pidfd int, err error) {
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
	pidfd = -1
	sys := sysProcAttr(attr, &pidfd)
	pid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Dir: attr.Dir, Env: env, Sys: sys,
		Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2])},
	})
	return pid, pidfd, err
}

// leakingDescriptors lists the descriptors above 2 that a child would inherit.
func leakingDescriptors() ([]int, error) {
	dir, err := os.Open(fdDir)
	if err != nil {
		return probeDescriptors(), nil // no /proc, say
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

// maxProbed bounds probeDescriptors: trying every number up to a limit of a billion would take minutes.
const maxProbed = 1 << 16

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

func leaking(fd int) bool {
	if fd <= 2 {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0 // EBADF: the listing's own directory
}
