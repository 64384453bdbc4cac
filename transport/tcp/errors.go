package tcp

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spawnwire/spawnwire/transport"
)

// ErrNoReusePort says that this platform cannot share a port among processes. It matches
// [errors.ErrUnsupported] too.
var ErrNoReusePort error = noReusePort{}

type noReusePort struct{}

func (noReusePort) Error() string {
	return "no SO_REUSEPORT on this platform; unset Transport.ReusePort and give each process a port of its own"
}
func (noReusePort) Unwrap() error { return errors.ErrUnsupported }

// RemoteError says that an address leads out of this machine, which [Transport] refuses unless its
// AllowUnencrypted is set. Nothing was sent.
type RemoteError struct {
	Addr transport.Addr // as it was given
	IP   netip.Addr     // what it resolved to
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("tcp: %s: %s is not a loopback address and plain TCP is not encrypted; use package transport/tls, or set Transport.AllowUnencrypted to allow it", e.Addr, e.IP)
}
