package access

import (
	"errors"
	"time"
)

// PreAuthLimit is the largest frame, in bytes, that either side of a handshake
// reads before it knows the other. It also holds for control connections.
const PreAuthLimit = 64 << 10

// DefaultHelloTimeout is how long a new connection may take to send a whole hello.
const DefaultHelloTimeout = 10 * time.Second

// TicketFile is the file with the ticket of a child in a pod. It cannot be removed there.
const TicketFile = "/var/run/secrets/spawnwire/ticket"

// ErrDismissed is the error of handshake.Join in a spare if its parent does not
// need the spare. It is not a failure.
var ErrDismissed = errors.New("not needed")

// JoinOptions are the settings of handshake.Join for this module alone.
type JoinOptions struct {
	// Timings, if not nil, is what Ready sends.
	Timings *Timings
	// Inspect announces that the child answers inspections.
	Inspect bool
	// Versions are the lowest and the highest version of the protocol in the
	// child's hello. Zero means those of package handshake. For tests.
	Versions [2]uint
}

// ExpectOptions are the settings of handshake.Listener.Expect for this module alone.
type ExpectOptions struct {
	// Ticket, if not "", is the encoded ticket that the child has made itself. Its id
	// and its secret are used.
	Ticket string
}

// Timings are moments in a child's start, in nanoseconds of its host's
// CLOCK_MONOTONIC. 0 is unknown.
type Timings struct {
	Init      int64 // the first package init of this library ran
	Main      int64 // package inits are done, and the program asked to join
	Connected int64 // the connection was made
	Accepted  int64 // welcome and spec were received and checked
}
