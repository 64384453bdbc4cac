// Package uds carries a [transport.Channel] over Unix domain sockets, and takes care of what goes
// wrong with them: paths that are too long, socket files that a killed process left behind,
// directories that others can write to, and the question who is at the other end.
//
// A parent makes a private directory, listens in it and tells its child the address; the child
// dials it; the parent asks the kernel who came:
//
//	dir, err := uds.NewDir()                      // 0700, below $XDG_RUNTIME_DIR or the temporary directory
//	defer dir.Remove()
//	l, err := uds.Listen(ctx, dir.Addr("parent")) // takes over a stale file, never a live one
//	defer l.Close()                               // removes the socket file
//	conn, err := l.Accept()
//	cred, err := uds.PeerCred(conn)               // pid, uid and gid, from the kernel
//
//	conn, err := uds.Dial(ctx, addr)              // in the child
//
// [Transport] is the same behind the interfaces [transport.Dialer] and [transport.Listener].
//
// On Linux there are also abstract names, which are no files: [transport.Addr] writes them
// uds://@name. Everybody on the machine who shares the network namespace can connect to one, so
// a path in a private directory is the better default.
package uds

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// maxName is how many bytes a path, or an abstract name without its "@", can have: sun_path of
// struct sockaddr_un less one byte, which is the NUL after a path or the NUL before an abstract
// name. That gives 107 on Linux and Windows and 103 on Darwin; see unix(7).
const maxName = len(syscall.RawSockaddrUnix{}.Path) - 1

// Transport dials and listens on Unix domain sockets. The zero value is ready to use, and its
// methods may be called concurrently.
type Transport struct{}

var (
	_ transport.Dialer   = Transport{}
	_ transport.Listener = Transport{}
)

// Dial is the function [Dial]; the connection is a [*net.UnixConn].
func (Transport) Dial(ctx context.Context, addr transport.Addr) (net.Conn, error) {
	conn, err := Dial(ctx, addr)
	if err != nil {
		return nil, err // and not a nil *net.UnixConn inside a net.Conn that is not nil
	}
	return conn, nil
}

// Listen is the function [Listen]; the listener is a [*Listener].
func (Transport) Listen(ctx context.Context, addr transport.Addr) (net.Listener, error) {
	l, err := Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Dial connects to the Unix socket at addr. It may be called concurrently.
//
// An address of another scheme, or a malformed one, is a [*transport.AddrError]; a name that is too
// long is a [*PathError]; an abstract name where there are none is [ErrNoAbstract]. What the system
// refuses has the [*net.OpError] in its chain: on Unix, syscall.ECONNREFUSED says that nobody
// listens at the file and fs.ErrNotExist that there is no file.
//
// Where the listener's queue of waiting connections is full, as in a mass start, Linux would fail a
// non-blocking connect with EAGAIN (connect(2)). Dial waits instead, as it does for other sockets,
// until there is room or ctx ends; then both ctx.Err() and the EAGAIN are in the chain. Give ctx a
// deadline: a listener that never accepts is waited for.
func Dial(ctx context.Context, addr transport.Addr) (*net.UnixConn, error) {
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", addr.Target)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !isQueueFull(err) {
			return nil, fmt.Errorf("uds: %w", err)
		}
		if ctxErr := backOff(ctx, try); ctxErr != nil {
			return nil, fmt.Errorf("uds: %w while the listener's queue was full: %w", ctxErr, err)
		}
	}
}

// checkAddr finds what is wrong with addr without a system call.
func checkAddr(addr transport.Addr) error {
	if addr.Scheme != transport.SchemeUDS {
		return &transport.AddrError{Input: addr.String(), Reason: "not a Unix socket's; want uds:///path or uds://@name"}
	}
	// An Addr can be made by hand: a NUL would make package net take a path for an abstract name,
	// and a relative path would be another socket after a chdir.
	if _, err := transport.ParseAddr(addr.String()); err != nil {
		return err
	}
	name := addr.Target
	if isAbstract(name) {
		if !haveAbstract {
			return fmt.Errorf("uds: %s: %w", addr, ErrNoAbstract)
		}
		name = name[1:]
	}
	if len(name) > maxName {
		return &PathError{Path: addr.Target, Len: len(name), Limit: maxName}
	}
	return nil
}

func isAbstract(name string) bool { return name[0] == '@' }

// backOff waits before the next try: 1 ms after try 0, doubling up to 32 ms. It returns ctx.Err()
// if ctx ends first.
func backOff(ctx context.Context, try int) error {
	t := time.NewTimer(time.Millisecond << min(try, 5))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
