//go:build linux || darwin

package uds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// lockDir takes the lock that those who bind sockets in dir agree on: flock(2) on the directory
// itself, which leaves no lock file. It belongs to the open descriptor, so goroutines of one process
// exclude each other as processes do. It waits until ctx ends; that is its only error: without
// a directory that can be opened and locked, unlock does nothing.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	// O_DIRECTORY, because a plain open of a named pipe would block.
	fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return func() {}, nil
	}
	for try := 0; ; try++ {
		err := tryLock(fd)
		if err == nil {
			return func() { unlockClose(fd) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			unix.Close(fd)
			return func() {}, nil // a file system without locks
		}
		if err := backOff(ctx, try); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("%w while somebody else held the lock on directory %s", err, dir)
		}
	}
}

// open keeps out of package os: a lock must not end because a finalizer closes its file.
func open(path string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// tryLock takes the lock, or fails with EWOULDBLOCK if another descriptor has it.
func tryLock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}

// unlockClose unlocks in so many words: a child that is between fork and exec has a copy of the
// descriptor, and while it is open a mere close would keep the lock.
func unlockClose(fd int) {
	unix.Flock(fd, unix.LOCK_UN)
	unix.Close(fd)
}
