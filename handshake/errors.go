package handshake

import (
	"errors"
	"fmt"
	"slices"
)

// Causes that a caller can find in an [Error] with errors.Is.
var (
	// ErrBadMAC: the peer does not know the secret, or a frame was changed on
	// the way.
	ErrBadMAC = errors.New("the peer's proof of the secret is wrong")

	// ErrUnknownPeer: no child with that id is expected. It was never expected,
	// it comes too late, or its ticket is used a second time.
	ErrUnknownPeer = errors.New("no peer with that id is expected")

	// ErrForeignUser: the kernel reports that the peer runs as another user.
	ErrForeignUser = errors.New("the peer runs as another user")

	// ErrForeignProcess: the kernel reports that a hello or a control
	// connection came from a process that is neither the child nor shown to
	// descend from it.
	ErrForeignProcess = errors.New("the peer is another process")

	// ErrNoProcess: a child's hello came, and SetPID was not called in time.
	ErrNoProcess = errors.New(
		"SetPID was not called, so that nobody knows which process the child is")

	// ErrRefused: the other side refused this one and gives no reason.
	ErrRefused = errors.New("refused")

	// ErrUnknownEntry: the child has no entry of the name in its spec.
	ErrUnknownEntry = errors.New("unknown entry")

	// ErrBadSpec: the child cannot use its spec.
	ErrBadSpec = errors.New("bad spec")

	// ErrBadTicket: the text of a ticket cannot be used. The error never repeats
	// the text, because a secret is in it.
	ErrBadTicket = errors.New("bad ticket")

	// ErrListenerClosed: the Listener was closed.
	ErrListenerClosed = errors.New("the listener is closed")
)

// Error is the error of a handshake.
type Error struct {
	Phase Phase // the phase that was not completed
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("handshake: %s: %v", e.Phase, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Phase is a step in the start of a child.
type Phase string

// The phases, in their order.
const (
	PhaseStart   Phase = "start"   // the process is being started
	PhaseConnect Phase = "connect" // it runs, and has not been seen to connect
	// it has connected, and has not said hello (where the kernel reports that)
	PhaseHello Phase = "hello"
	PhaseAuth  Phase = "auth"  // its secret and its version are being checked
	PhaseSpec  Phase = "spec"  // it was sent its spec, and has not answered
	PhaseReady Phase = "ready" // it accepted its spec and prepares, or is ready
)

var phases = []Phase{PhaseStart, PhaseConnect, PhaseHello, PhaseAuth, PhaseSpec, PhaseReady}

// after reports whether p comes after q.
func (p Phase) after(q Phase) bool { return slices.Index(phases, p) > slices.Index(phases, q) }

// The codes of a failed frame. An unknown code is treated as codeError.
const (
	codeError        = "error"         // the text is all there is
	codeRefused      = "refused"       // the hello was not accepted; no more is said on purpose
	codeVersion      = "version"       // no common version
	codeUnknownEntry = "unknown-entry" // the spec names an entry that the child does not have
	codeBadSpec      = "bad-spec"      // the spec cannot be read, or has a bad value
)

// FailedError is the other side's reason for ending the handshake.
//
// It matches ErrUnknownEntry, ErrBadSpec or ErrRefused if that is the reason.
type FailedError struct {
	Phase Phase
	Text  string // the other side's own words; at most 4 KiB
	code  string
}

// maxFailedText bounds the text of a failed frame, in bytes.
const maxFailedText = 4 << 10

func (e *FailedError) Error() string {
	if e.Text == "" {
		return "the peer gave up: " + e.code
	}
	return "the peer gave up: " + e.Text
}

// Is makes the error match the cause of its code.
func (e *FailedError) Is(target error) bool {
	switch e.code {
	case codeUnknownEntry:
		return target == ErrUnknownEntry
	case codeBadSpec:
		return target == ErrBadSpec
	case codeRefused:
		return target == ErrRefused
	}
	return false
}
