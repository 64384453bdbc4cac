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
	"time"

	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
)

// Listen binds a Unix socket at addr and listens. It may be called concurrently, also
// by several processes for the same address: exactly one of them gets it.
//
// Listen first removes a socket file without a process, such as that of a killed
// process. To find this out it tries to connect, and the kernel refuses. Other files
// stay, and the error is [ErrNotSocket]. A socket of a live process, or one that may not
// be tried, stays with [ErrInUse].
//
// On Linux and Darwin Listen takes an exclusive flock(2) on the directory meanwhile. So
// two processes with this package do not remove each other's new socket. Listen waits
// for the lock until ctx ends. Where the directory cannot be read or locked, and on other
// systems, there is no lock.
//
// Other errors are those of [Dial]; if a bind fails, the [*net.OpError] is in the chain.
//
// The mode of the socket file follows the umask. To keep other users out, listen in a
// private directory. A chmod of the socket would be too late.
//
// The listener accepts [*net.UnixConn]s. Its Close removes the socket file if it is still
// the one that Listen made, and it is no error if the file is gone. A second Close fails
// with [net.ErrClosed]. It also has the methods SetDeadline and SyscallConn of
// [net.UnixListener].
func Listen(ctx context.Context, addr transport.Addr) (net.Listener, error) {
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	l, err := listen(ctx, addr.Target)
	if err != nil {
		return nil, fmt.Errorf("uds: listen %s: %w", addr.Target, err)
	}
	return l, nil
}

func listen(ctx context.Context, name string) (*listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // package net binds Unix sockets with any ctx
	}
	if isAbstract(name) {
		ul, err := bind(ctx, name)
		if err != nil {
			return nil, err
		}
		return &listener{UnixListener: ul}, nil
	}

	// The lock also spans a bind with nothing to remove. During bind(2) there is a
	// moment when the file exists and is not yet bound, so it looks stale.
	unlock, err := unixsock.LockDir(ctx, filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer unlock()

	if err := unixsock.RemoveStale(ctx, name); err != nil {
		return nil, err
	}
	ul, err := bind(ctx, name)
	if err != nil {
		return nil, err
	}
	file, err := os.Lstat(name)
	if err != nil {
		ul.Close()
		return nil, err
	}
	os.SameFile(file, file) // on Windows the first comparison reads the file's identity
	return &listener{UnixListener: ul, path: name, file: file}, nil
}

func bind(ctx context.Context, name string) (*net.UnixListener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", name) // with the system's longest queue
	if errors.Is(err, unixsock.ErrAddrInUse) {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // it would remove any file at the path
	return ul, nil
}

// listener removes its own file, and no other, when it is closed.
type listener struct {
	*net.UnixListener
	path string      // empty for an abstract name
	file fs.FileInfo // the file as it was made, with its device and inode

	unlinkOnce sync.Once
}

// Close removes the file first. While the socket is open, no process takes its file for
// stale, and its inode number is not given to another file.
func (l *listener) Close() error {
	var unlinkErr error
	l.unlinkOnce.Do(func() { unlinkErr = l.unlink() })
	err := l.UnixListener.Close()
	if unlinkErr != nil {
		return errors.Join(fmt.Errorf("uds: close: %w", unlinkErr), err)
	}
	return err
}

// lockWait is how long Close waits for the lock on the directory. A Listen holds it for
// less than a millisecond, so only a program without this package can hold it longer.
const lockWait = 100 * time.Millisecond

func (l *listener) unlink() error {
	if l.path == "" {
		return nil
	}
	// If our file was removed, a successor may bind between the comparison and the
	// removal. The lock prevents this. Without the lock there is a gap of microseconds,
	// which is better than to leave the file or to hang.
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	if unlock, err := unixsock.LockDir(ctx, filepath.Dir(l.path)); err == nil {
		defer unlock()
	}

	now, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !os.SameFile(now, l.file) {
		return nil
	}
	return unixsock.Remove(l.path)
}
