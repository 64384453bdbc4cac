// Package unixsock has this module's helpers for Unix sockets: private directories,
// stale socket files, locks, pairs, and the credentials of peers.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// MaxName is the longest path of a socket, and the longest abstract name without its
// "@", in bytes: 107 on Linux and Windows, 103 on Darwin. It is the size of sun_path in
// unix(7) less one byte for a NUL.
const MaxName = len(syscall.RawSockaddrUnix{}.Path) - 1

// ErrInUse and ErrNotSocket are documented in package uds.
var (
	ErrInUse     error = inUse{}
	ErrNotSocket       = errors.New("not a socket")
)

type inUse struct{}

func (inUse) Error() string { return "address in use by another socket" }
func (inUse) Unwrap() error { return syscall.EADDRINUSE }

// ErrNotUnix is documented in package uds.
var ErrNotUnix = errors.New("not a Unix socket connection")

// ErrNotDescendant: a process is not known to descend from another.
var ErrNotDescendant = errors.New("not shown to be a descendant")

// Cred is documented in package uds.
type Cred struct {
	PID      int
	UID, GID uint32
}

// PeerCred is documented in package uds.
func PeerCred(conn net.Conn) (cred Cred, err error) {
	err = control(conn, func(fd int) (err error) {
		cred, err = peerCred(fd)
		return err
	})
	return cred, err
}

// control calls f with the descriptor of a Unix socket.
func control(conn net.Conn, f func(fd int) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("uds: peer credentials: %w", err)
		}
	}()
	sc, ok := conn.(syscall.Conn)
	if _, isUnix := conn.LocalAddr().(*net.UnixAddr); !ok || !isUnix {
		return fmt.Errorf("%w: %T", ErrNotUnix, conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// RemoveStale makes room for a bind: after a nil error there is no file at path. It
// removes only a socket file that no process has bound.
func RemoveStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w but %s", ErrNotSocket, typeOf(fi))
	}
	bound, err := isBound(ctx, path)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", ErrInUse, err)
	case bound:
		return ErrInUse
	}
	return Remove(path)
}

// isBound reports whether a process has a socket that is bound to the file at path.
func isBound(ctx context.Context, path string) (bool, error) {
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

func typeOf(fi fs.FileInfo) string {
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

// Remove removes a file. It is no error if the file does not exist.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// BackOff waits before the next try: 1 ms after try 0, and doubling up to 32 ms. If ctx
// ends first, it returns ctx.Err().
func BackOff(ctx context.Context, try int) error {
	t := time.NewTimer(time.Millisecond << min(try, 5))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
