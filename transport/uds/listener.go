package uds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// closeLockWait bounds how long [Listener.Close] waits for the lock on the directory. Listeners hold
// it for less than a millisecond; only a program that is not ours can hold it for longer.
const closeLockWait = 100 * time.Millisecond

// Listener is a listening Unix socket that removes its own file, and no other, when it is closed.
// All methods may be called concurrently.
type Listener struct {
	ul    *net.UnixListener
	path  string      // empty for an abstract name
	bound fs.FileInfo // the file as it was made: its device and inode tell it from a successor's

	unlinkOnce sync.Once
}

// Listen binds a Unix socket at addr and listens. It may be called concurrently, also by several
// processes for the same address: exactly one of them gets it.
//
// A socket file that a dead process left behind is removed first. It counts as left behind only if
// it is a socket and the kernel refuses a connect to it (ECONNREFUSED), which means that no process
// holds the socket that was bound to it. What is not a socket stays, with [ErrNotSocket];
// a socket that answers, or that cannot be tried (EACCES, say), stays too, with [ErrInUse].
//
// On Linux and Darwin Listen holds an exclusive flock(2) on the directory of the path while it
// checks, removes and binds, so that two processes that use this package cannot remove each other's
// new socket; a program that binds there without the lock is not kept out. Listen waits for the lock
// until ctx ends, so give ctx a deadline where others may lock the directory. Where the directory
// cannot be read or locked, and on other systems, it goes without.
//
// The length of the queue of connections that wait for Accept is the system's maximum
// (net.core.somaxconn on Linux): package net always asks for that, so that a mass start loses no
// peer.
//
// Other errors are those of [Dial]; a bind that fails has the [*net.OpError] in its chain.
//
// The file's mode follows the umask. A chmod after the fact would be a race: keep others out with the
// directory's mode, as [NewDir] does.
func Listen(ctx context.Context, addr transport.Addr) (*Listener, error) {
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	l, err := listen(ctx, addr.Target)
	if err != nil {
		return nil, fmt.Errorf("uds: listen %s: %w", addr.Target, err)
	}
	return l, nil
}

func listen(ctx context.Context, name string) (*Listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // package net binds a Unix socket without a look at it
	}
	if isAbstract(name) {
		ul, err := bind(ctx, name)
		if err != nil {
			return nil, err
		}
		return &Listener{ul: ul}, nil
	}

	// The lock spans the whole of check, remove and bind, and also a bind that had nothing to
	// remove: inside bind(2) there is a moment when the file exists and the socket is not yet known
	// by it, in which the file looks stale to a competitor.
	unlock, err := lockDir(ctx, filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer unlock()

	if err := removeStale(ctx, name); err != nil {
		return nil, err
	}
	ul, err := bind(ctx, name)
	if err != nil {
		return nil, err
	}
	bound, err := os.Lstat(name)
	if err != nil {
		ul.Close()
		return nil, err
	}
	os.SameFile(bound, bound) // on Windows the file's identity is only read when it is first compared
	return &Listener{ul: ul, path: name, bound: bound}, nil
}

func bind(ctx context.Context, name string) (*net.UnixListener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", name)
	if errors.Is(err, errAddrInUse) {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // it would remove whatever has the path by then
	return ul, nil
}

// removeStale makes room for a bind: it returns nil when there is no file at path any more.
func removeStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w but %s", ErrNotSocket, kindOf(fi))
	}
	held, err := probe(ctx, path)
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // which says nothing about the socket
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case held:
		return ErrInUse
	}
	return removeFile(path)
}

// probe tells whether a process holds a socket that is bound to the socket file at path. With an
// error it is not known.
func probe(ctx context.Context, path string) (held bool, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, probeNetwork, path)
	switch {
	case err == nil:
		conn.Close()
		return true, nil
	case errors.Is(err, errRefused):
		return false, nil
	case errors.Is(err, errOtherType):
		return true, nil
	}
	return false, err
}

func kindOf(fi fs.FileInfo) string {
	switch fi.Mode().Type() {
	case 0:
		return "a regular file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a named pipe"
	}
	return "a device"
}

// removeFile removes a file that may be gone already.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Accept waits for the next connection, which is a [*net.UnixConn]. Its errors are those of
// [net.UnixListener]: after Close they match [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	return l.ul.Accept()
}

// Addr returns the socket's address, a [*net.UnixAddr]; [transport.AddrOf] turns it into an Addr.
func (l *Listener) Addr() net.Addr { return l.ul.Addr() }

// SetDeadline sets the time after which Accept fails with [os.ErrDeadlineExceeded]; the zero time
// means never.
func (l *Listener) SetDeadline(t time.Time) error { return l.ul.SetDeadline(t) }

// SyscallConn gives access to the socket, as [net.UnixListener.SyscallConn] does.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return l.ul.SyscallConn() }

// Close stops listening and removes the socket file, if it is still the one that this listener
// made. A file that is gone is no error, and another listener's file at the same path stays.
// A second Close fails with [net.ErrClosed], as package net's own listeners do.
func (l *Listener) Close() error {
	var unlinkErr error
	// First the file, then the socket: as long as the socket is open nobody takes its file for stale,
	// and the inode number that the comparison rests on cannot be given to another file.
	l.unlinkOnce.Do(func() { unlinkErr = l.unlink() })
	err := l.ul.Close()
	if unlinkErr != nil {
		return errors.Join(fmt.Errorf("uds: close: %w", unlinkErr), err)
	}
	return err
}

func (l *Listener) unlink() error {
	if l.path == "" {
		return nil
	}
	// If somebody else removed our file, a successor may be binding at this moment, between the
	// comparison and the removal. The lock keeps it out. If the lock is not to be had, that is a gap of
	// microseconds, which is better than to leave the file or to hang.
	ctx, cancel := context.WithTimeout(context.Background(), closeLockWait)
	defer cancel()
	if unlock, err := lockDir(ctx, filepath.Dir(l.path)); err == nil {
		defer unlock()
	}

	now, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !os.SameFile(now, l.bound) {
		return nil
	}
	return removeFile(l.path)
}
