//go:build unix

package uds

import (
	"errors"
	"syscall"
)

// A datagram socket asks better than a stream socket whether a file has an owner: the kernel finds
// the owner first, fails with EPROTOTYPE because its type differs, and looks at nothing else. So
// a live server sees no stray connection, a socket between its bind(2) and listen(2) counts as live,
// and so does one whose queue is full, where Darwin would refuse a stream's connect with ECONNREFUSED.
const probeNetwork = "unixgram"

const (
	errRefused   = syscall.ECONNREFUSED // no socket is bound to the file
	errOtherType = syscall.EPROTOTYPE   // one is
	errAddrInUse = syscall.EADDRINUSE
)

func isQueueFull(err error) bool { return errors.Is(err, syscall.EAGAIN) }

func isOutOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
