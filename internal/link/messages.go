package link

import (
	"fmt"
	"time"
)

// SupervisorEnv is the environment variable that makes a process a supervisor. Its
// value is that of Order.
const SupervisorEnv = "SPAWNWIRE_SUPERVISE"

// Magic begins the supervisor's first line. The nonce, a space and "ready" follow.
const Magic = "spawnwire-"

// Order returns the value of SupervisorEnv. The nonce tells the supervisor's first line
// from other output. silence is how long the launcher may be silent.
func Order(nonce string, silence time.Duration) string {
	return fmt.Sprintf("%s %d", nonce, silence.Milliseconds())
}

// ParseOrder parses a text from Order.
func ParseOrder(order string) (nonce string, silence time.Duration, err error) {
	var ms int64
	if _, err := fmt.Sscanf(order, "%s %d", &nonce, &ms); err != nil || ms <= 0 {
		return "", 0, fmt.Errorf("%s=%q: want a nonce and a time in milliseconds",
			SupervisorEnv, order)
	}
	return nonce, time.Duration(ms) * time.Millisecond, nil
}

// These are the messages between a launcher and the supervisor of its child.

// ToFar is a message to the supervisor. One of its fields is set.
type ToFar struct {
	Start  *Start `cbor:",omitempty"`
	Signal int    `cbor:",omitempty"` // for the process
	Group  int    `cbor:",omitempty"` // a signal for its process group
}

// Start asks the supervisor to start the child. It is the first message.
type Start struct {
	Path, Dir      string
	Args           []string
	Env            []string // in addition to the supervisor's own
	NewSession     bool
	Ticket         string // without an address
	Stdout, Stderr bool   // carry it on a stream
}

// ToNear is a message of the supervisor. One of its fields is set.
type ToNear struct {
	Started int     `cbor:",omitempty"` // the process id
	Failed  *Failed `cbor:",omitempty"`
	Exited  *Exited `cbor:",omitempty"`
}

// Failed reports that the child could not be started.
type Failed struct {
	Op, Path string // of an fs.PathError, or empty
	Errno    string // the name of the system's error, or empty
	Text     string
}

// Exited is how the child has ended.
type Exited struct {
	Known  bool
	Code   int
	Signal int
	Core   bool
	OOM    bool // the kernel has killed it, or another process there, for lack of memory
}

// The numbers of the streams.
const (
	Stdout = 1 + iota
	Stderr
	FirstConn // connections of the child have this number and higher ones
)
