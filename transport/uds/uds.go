// Package uds carries a [transport.Channel] over Unix domain sockets. It reports paths
// that are too long, replaces socket files of killed processes, and asks the kernel who
// is at the other end.
//
// Listen in a directory that other users cannot enter, such as one of [os.MkdirTemp]:
//
//	dir, err := os.MkdirTemp("", "")
//	defer os.RemoveAll(dir)
//	addr := transport.Addr{Scheme: transport.SchemeUDS, Target: filepath.Join(dir, "s")}
//	l, err := uds.Listen(ctx, addr)
//	defer l.Close()                               // removes the socket file
//	conn, err := l.Accept()
//	cred, err := uds.PeerCred(conn)               // pid, uid and gid, from the kernel
//
//	conn, err := uds.Dial(ctx, addr)              // in the other process
//
// Linux also has abstract names, which are no files. A [transport.Addr] writes them
// uds://@name. Every process in the network namespace can connect to one, so a path in
// a private directory is the better default.
package uds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"

	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
)

var (
	// ErrInUse: a process has bound the socket, or it is not known that none has. It
	// matches syscall.EADDRINUSE.
	ErrInUse = unixsock.ErrInUse

	// ErrNotSocket: there is something else than a socket at the path. It stays.
	ErrNotSocket = unixsock.ErrNotSocket

	// ErrNoAbstract: only Linux has abstract names. It matches errors.ErrUnsupported.
	ErrNoAbstract error = noAbstract{}

	// ErrNotUnix: a connection is not a Unix socket's.
	ErrNotUnix = unixsock.ErrNotUnix
)

type noAbstract struct{}

func (noAbstract) Error() string { return "abstract socket names exist on Linux only; use a path" }
func (noAbstract) Unwrap() error { return errors.ErrUnsupported }

// PathError reports a path or an abstract name that is too long for the platform
// (sun_path in unix(7)).
type PathError struct {
	Path  string // the path, or the abstract name with its "@"
	Len   int    // its length in bytes, without the "@"
	Limit int    // in bytes: 107 on Linux and Windows, 103 on Darwin
}

func (e *PathError) Error() string {
	return fmt.Sprintf("uds: socket path %q has %d bytes, the limit is %d", e.Path, e.Len, e.Limit)
}

// Transport is the functions [Dial] and [Listen] as a [transport.Network].
type Transport struct{}

var _ transport.Network = Transport{}

// Dial calls the function [Dial].
func (Transport) Dial(ctx context.Context, addr transport.Addr) (net.Conn, error) {
	conn, err := Dial(ctx, addr)
	if err != nil {
		return nil, err // and no nil *net.UnixConn in the interface
	}
	return conn, nil
}

// Listen calls the function [Listen].
func (Transport) Listen(ctx context.Context, addr transport.Addr) (net.Listener, error) {
	return Listen(ctx, addr)
}

// Dial connects to the Unix socket at addr. It may be called concurrently.
//
// An address that is malformed or of another scheme gives a [*transport.AddrError], a
// name that is too long a [*PathError], and an abstract name elsewhere than on Linux
// [ErrNoAbstract]. Other errors have the [*net.OpError] in their chain. On Unix they
// match syscall.ECONNREFUSED if nobody listens, and fs.ErrNotExist if there is no file.
//
// If the listener's queue of connections is full, Dial waits until there is room or ctx
// ends. Then the error matches ctx.Err() and, on Linux, syscall.EAGAIN. A listener that
// never accepts makes Dial wait for ever, so give ctx a deadline.
func Dial(ctx context.Context, addr transport.Addr) (*net.UnixConn, error) {
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", addr.Target)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) { // connect(2): the queue is full
			return nil, fmt.Errorf("uds: %w", err)
		}
		if ctxErr := unixsock.BackOff(ctx, try); ctxErr != nil {
			return nil, fmt.Errorf("uds: %w while the listener's queue was full: %w", ctxErr, err)
		}
	}
}

// checkAddr checks addr without a system call.
func checkAddr(addr transport.Addr) error {
	if addr.Scheme != transport.SchemeUDS {
		return &transport.AddrError{Input: addr.String(),
			Reason: "not a Unix socket's; want uds:///path or uds://@name"}
	}
	// The caller may have made addr by hand. With a NUL package net would take a path
	// for an abstract name, and a relative path changes its meaning with a chdir.
	if _, err := transport.ParseAddr(addr.String()); err != nil {
		return err
	}
	name := addr.Target
	if isAbstract(name) {
		if runtime.GOOS != "linux" {
			return fmt.Errorf("uds: %s: %w", addr, ErrNoAbstract)
		}
		name = name[1:]
	}
	if len(name) > unixsock.MaxName {
		return &PathError{Path: addr.Target, Len: len(name), Limit: unixsock.MaxName}
	}
	return nil
}

func isAbstract(name string) bool { return name[0] == '@' }

// Cred has the credentials of the process at the other end of a Unix socket.
type Cred struct {
	PID      int    // in the caller's PID namespace; 0 if the process is not in it
	UID, GID uint32 // the effective ones, in the caller's user namespace
}

// PeerCred asks the kernel for the credentials of the process at the other end of conn:
// SO_PEERCRED on Linux (unix(7)), LOCAL_PEERCRED and LOCAL_PEERPID on Darwin (unix(4)).
// Elsewhere the error matches [errors.ErrUnsupported].
//
// The kernel records the credentials when the connection is made. On the accepting side
// they are those of the process that called connect(2), and on the dialing side of the
// one that called listen(2). This process may have passed its descriptor on since, and
// after its end its pid may belong to another process. So rely on the uid and gid more
// than on the pid.
//
// conn is a [*net.UnixConn] or a type that embeds one. Others give [ErrNotUnix].
// PeerCred may be called concurrently with all methods of conn.
func PeerCred(conn net.Conn) (Cred, error) {
	cred, err := unixsock.PeerCred(conn)
	return Cred(cred), err
}
