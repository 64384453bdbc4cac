package handshake

import (
	"errors"
	"fmt"
)

// The causes that a caller can tell apart with errors.Is.
var (
	// ErrBadMAC: the peer does not know the secret, or somebody changed its words on the way.
	ErrBadMAC = errors.New("the peer's proof of the secret is wrong")

	// ErrUnknownPeer: nobody with that id is expected: a stranger, a child that comes too late, or a
	// second use of a ticket.
	ErrUnknownPeer = errors.New("no peer with that id is expected")

	// ErrForeignUser: the kernel says that the peer runs as another user.
	ErrForeignUser = errors.New("the peer runs as another user")

	// ErrForeignProcess: the kernel says that a child's hello, or its control connection, came from a process that is
	// neither the child's own nor shown to descend from it.
	ErrForeignProcess = errors.New("the peer is another process")

	// ErrNoProcess: a child's hello came, and nobody said in time which process the child is; see Expected.SetPID.
	ErrNoProcess = errors.New("SetPID was not called, so that nobody knows which process the child is")

	// ErrRefused: the other side refused this one and does not say why.
	ErrRefused = errors.New("refused")

	// ErrUnknownEntry: the child has no entry of the name in its spec.
	ErrUnknownEntry = errors.New("unknown entry")

	// ErrBadSpec: the child cannot use its spec.
	ErrBadSpec = errors.New("bad spec")

	// ErrDismissed: the parent asks a child to stop that it kept in reserve: there is no spec for it. It is no failure.
	ErrDismissed = errors.New("not needed")

	// ErrClosed: the Listener was closed.
	ErrClosed = errors.New("handshake listener closed")
)

// Error is the error of a handshake. Phase is the step that did not complete.
type Error struct {
	Phase Phase
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("handshake: %s: %v", e.Phase, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// The codes that a failed frame can carry, for programs; its text is for people. An unknown code is
// treated as CodeError.
const (
	CodeError        = "error"         // the text says it all
	CodeRefused      = "refused"       // the hello was not accepted; deliberately no more than that
	CodeVersion      = "version"       // no common version
	CodeUnknownEntry = "unknown-entry" // the spec names an entry that the child does not have
	CodeBadSpec      = "bad-spec"      // the spec cannot be read or has a bad value
)

// maxFailedText bounds the text of a failed frame, in bytes.
const maxFailedText = 4 << 10

// FailedError is what the other side said when it gave up: its own words.
//
// It matches ErrUnknownEntry, ErrBadSpec or ErrRefused when its code says so.
type FailedError struct {
	Phase Phase
	Code  string // one of the codes above
	Text  string // at most 4 KiB
}

func (e *FailedError) Error() string {
	if e.Text == "" {
		return "the peer gave up: " + e.Code
	}
	return "the peer gave up: " + e.Text
}

// Is matches the error that belongs to the code.
func (e *FailedError) Is(target error) bool {
	switch e.Code {
	case CodeUnknownEntry:
		return target == ErrUnknownEntry
	case CodeBadSpec:
		return target == ErrBadSpec
	case CodeRefused:
		return target == ErrRefused
	}
	return false
}
