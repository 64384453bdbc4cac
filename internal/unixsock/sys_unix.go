//go:build unix

package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// isBound probes with a datagram socket. The kernel looks for the owner of the file
// first, and fails with EPROTOTYPE because its type is another. So a server gets no
// connection. A socket between bind(2) and listen(2) counts as bound, and so does one
// with a full queue, for which Darwin would refuse a stream's connect.
const probeNetwork = "unixgram"

const (
	errRefused   = syscall.ECONNREFUSED // no socket is bound to the file
	errOtherType = syscall.EPROTOTYPE   // one is

	// ErrAddrInUse is the error of a bind to an address that is taken.
	ErrAddrInUse = syscall.EADDRINUSE
)

// LockDir takes the lock for binding sockets in dir: flock(2) on the directory itself,
// which needs no lock file. It belongs to the open descriptor, so goroutines exclude
// each other as processes do. LockDir waits until ctx ends, and this is its only error:
// if dir cannot be opened or locked, there is no lock, and unlock does nothing.
func LockDir(ctx context.Context, dir string) (unlock func(), err error) {
	// without O_DIRECTORY a named pipe would block
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
		if err := BackOff(ctx, try); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("%w while somebody else held the lock on directory %s", err, dir)
		}
	}
}

// open does not use package os, because a finalizer would end the file's lock.
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

// tryLock takes the lock. If another descriptor holds it, the error is EWOULDBLOCK.
func tryLock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}

// unlockClose unlocks before it closes. A child between fork and exec has a copy of the
// descriptor, so a close alone would not end the lock.
func unlockClose(fd int) {
	unix.Flock(fd, unix.LOCK_UN)
	unix.Close(fd)
}

// sweepAge is how long a directory must be unchanged before sweep removes it. Its owner
// may have made it and not have locked it yet. Tests set it.
var sweepAge = time.Minute

// The bounds of one sweep, because /tmp can have very many entries.
const (
	sweepNames   = 4096 // entries of the place that are read
	sweepDirs    = 128  // directories that are looked at
	sweepEntries = 256  // entries in one of them; one with more stays
)

// claim marks dir as owned by a live process, until release or the end of the process.
func claim(dir string) (release func(), err error) {
	path := filepath.Join(dir, lockName)
	fd, err := open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := tryLock(fd); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	// If this process was stopped for a minute before it had the lock, a sweep may
	// have removed the directory.
	if _, err := os.Lstat(path); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("removed by another process: %w", err)
	}
	return func() { unlockClose(fd) }, nil
}

// bindProbe returns an error if no socket can be bound at path.
func bindProbe(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	unix.CloseOnExec(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return &fs.PathError{Op: "bind a socket at", Path: path, Err: err}
	}
	return Remove(path)
}

// sweep removes the private directories of dead owners from place, as NewDir describes.
func sweep(place string) { sweepOlder(place, sweepAge) }

// Sweep removes the private directories of dead owners from place. Unlike NewDir, it
// does not wait until they are old.
func Sweep(place string) { sweepOlder(place, -time.Hour) }

func sweepOlder(place string, age time.Duration) {
	f, err := os.Open(place)
	if err != nil {
		return
	}
	defer f.Close()
	for read, dirs := 0, 0; read < sweepNames; {
		entries, err := f.ReadDir(256)
		read += len(entries)
		for _, e := range entries {
			if e.Type() != fs.ModeDir || !isDirName(e.Name()) {
				continue
			}
			if dirs++; dirs > sweepDirs {
				return
			}
			sweepDir(filepath.Join(place, e.Name()), age)
		}
		if err != nil {
			return
		}
	}
}

func sweepDir(dir string, age time.Duration) {
	fi, err := os.Lstat(dir)
	if err != nil || !fi.IsDir() || !isOurs(fi) ||
		(fi.Mode().Perm() != 0o700 && fi.Mode().Perm() != 0o711) ||
		time.Since(fi.ModTime()) <= age {
		return
	}
	lock := filepath.Join(dir, lockName)
	fd, err := open(lock, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// The owner was killed before it made the file, or a cleaner has removed the
		// file of a live owner. So only an empty directory goes.
		os.Remove(dir)
		return
	}
	if err != nil {
		return
	}
	defer unlockClose(fd)
	if tryLock(fd) != nil {
		return // the owner lives, or another sweep is at work
	}

	d, err := os.Open(dir)
	if err != nil {
		return
	}
	entries, _ := d.ReadDir(sweepEntries + 1)
	d.Close()
	sockets, others := sortOut(entries)
	if len(entries) > sweepEntries || len(others) > 0 {
		return
	}
	for _, name := range sockets {
		// A child of the dead owner may still listen there.
		if bound, err := isBound(context.Background(), filepath.Join(dir, name)); bound ||
			err != nil {
			return
		}
	}
	if removeAll(dir, sockets) == nil && Remove(lock) == nil {
		Remove(dir)
	}
}

// isOurs reports whether a file belongs to the effective user of this process.
func isOurs(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// Rights returns the descriptors in the control data of one received message
// (SCM_RIGHTS in unix(7)). It returns none, or fewer than were sent, if this process
// had no room for them.
func Rights(control []byte) []int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return nil
	}
	fds, _ := unix.ParseUnixRights(&messages[0])
	return fds
}

// Pair returns both ends of a new connection within this process: socketpair(2), with
// close-on-exec. The error is the system's, an *os.SyscallError with EMFILE, ENFILE or
// ENOMEM. On Windows Pair returns a net.Pipe.
func Pair() (a, b net.Conn, err error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conn, ferr := net.FileConn(f) // has a descriptor of its own
		f.Close()
		ends[i] = conn
		if ferr != nil && err == nil {
			err = ferr
		}
	}
	if err != nil {
		for _, conn := range ends {
			if conn != nil {
				conn.Close()
			}
		}
		return nil, nil, err
	}
	return ends[0], ends[1], nil
}

// PeerDescends returns nil if the process at the other end of conn is the process
// ancestor or is shown to descend from it. Otherwise the error matches
// [ErrNotDescendant] and has the reason. ancestor is a pid in the caller's PID
// namespace, and the caller knows that this process has not been reaped.
//
// A process descends from ancestor if it is in the process group or the session that
// ancestor leads, or if ancestor is one of its parents' parents. This does not show a
// process that has left the group and lost its parents, as by a double fork. A process
// of the same session can move itself into a process group (setpgid(2)).
//
// Since Linux 6.5 the kernel identifies the very process that connected (SO_PEERPIDFD
// in unix(7)), and PeerDescends rejects one that has ended. On older kernels and on
// Darwin there is only its pid, which another process may have got since. On Windows
// the error matches [errors.ErrUnsupported].
func PeerDescends(conn net.Conn, ancestor int) error {
	return control(conn, func(fd int) error {
		cred, err := peerCred(fd)
		if err != nil {
			return err
		}
		switch cred.PID {
		case ancestor:
			return nil
		case 0:
			return fmt.Errorf("%w of process %d: it is not in this PID namespace",
				ErrNotDescendant, ancestor)
		}
		peer, err := holdPeer(fd)
		if err == nil {
			defer peer.release()
			err = descends(cred.PID, ancestor)
		}
		if err == nil && !peer.exists() {
			err = errEnded // and its pid may have been another process's
		}
		if err != nil {
			return fmt.Errorf("%w of process %d: process %d: %w", ErrNotDescendant,
				ancestor, cred.PID, err)
		}
		return nil
	})
}

var errEnded = errors.New("it has ended")

// descends returns nil if a process descends from another, which exists.
func descends(pid, ancestor int) error {
	// The pid of a group or session is not given to a process while the group or
	// session has members. So the members of ancestor's are ancestor's descendants,
	// or processes that joined the group themselves.
	if group, err := unix.Getpgid(pid); err == nil && group == ancestor {
		return nil
	}
	if session, err := unix.Getsid(pid); err == nil && session == ancestor {
		return nil
	}
	line, err := parents(pid, ancestor)
	if err != nil {
		return err
	}
	// A process whose parent ends gets another parent for good. So if the line is the
	// same at a second look, no pid in it was reused at the first.
	again, err := parents(pid, ancestor)
	if err != nil {
		return err
	}
	if !slices.Equal(line, again) {
		return errors.New("its parents changed meanwhile")
	}
	return nil
}

// maxParents is the longest line of parents that is followed.
const maxParents = 256

// parents returns the parents of a process up to ancestor.
func parents(pid, ancestor int) (line []int, err error) {
	for p := pid; p != ancestor; {
		if len(line) == maxParents {
			return nil, fmt.Errorf("it has more than %d parents", maxParents)
		}
		if p, err = parentOf(p); err != nil {
			return nil, err
		}
		if p <= 1 { // 0 is outside of the PID namespace
			return nil, errors.New("that is not among its parents")
		}
		line = append(line, p)
	}
	return line, nil
}
