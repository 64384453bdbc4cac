package unixsock

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/windows"
)

const probeNetwork = "unix" // there are no datagram sockets

const (
	errRefused   = windows.WSAECONNREFUSED
	errOtherType = windows.WSAEPROTOTYPE

	// ErrAddrInUse is the error of a bind to an address that is taken.
	ErrAddrInUse = windows.WSAEADDRINUSE
)

// LockDir does nothing, because Windows has no locks on directories. So there is no sweep
// either.
func LockDir(context.Context, string) (unlock func(), err error) { return func() {}, nil }

func claim(string) (release func(), err error) { return func() {}, nil }
func sweep(string)                             {}
func bindProbe(string) error                   { return nil }
func isOurs(fs.FileInfo) bool                  { return true }
func peerCred(int) (Cred, error)               { return Cred{}, errors.ErrUnsupported }

// Sweep does nothing; see LockDir.
func Sweep(string) {}

// SendFiles returns an error: there are no descriptors to pass.
func SendFiles(context.Context, net.Conn, ...*os.File) error { return errors.ErrUnsupported }

// ReceiveFiles returns an error: there are no descriptors to pass.
func ReceiveFiles(context.Context, net.Conn, int) ([]*os.File, error) {
	return nil, errors.ErrUnsupported
}

// Pair returns a net.Pipe, because there are no socket pairs.
func Pair() (a, b net.Conn, err error) {
	a, b = net.Pipe()
	return a, b, nil
}

// PeerDescends returns errors.ErrUnsupported, wrapped.
func PeerDescends(conn net.Conn, _ int) error {
	_, err := PeerCred(conn)
	return err
}
