//go:build !linux

package unixsock

import (
	"errors"
	"net"
)

// HoldPeer returns errors.ErrUnsupported.
func HoldPeer(net.Conn) (cred Cred, pidfd int, err error) {
	return cred, -1, errors.ErrUnsupported
}
