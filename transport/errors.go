package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
)

// The causes of an [Error] that errors.Is finds.
var (
	// ErrChannelClosed: this side closed the channel. It matches net.ErrClosed.
	ErrChannelClosed error = &textError{"channel closed: " + net.ErrClosed.Error(), net.ErrClosed}

	// ErrPeerGone: the stream ended or was reset without a goodbye, because the
	// peer crashed, was killed, or the connection was cut. EOF, EPIPE, ECONNRESET,
	// ETIMEDOUT and EHOSTUNREACH all give this error. An orderly close gives a GoodbyeError.
	//
	// When a receive finds that the connection was reset, its error also matches
	// syscall.ECONNRESET. On Linux a Unix socket is reset if the peer ended before
	// it had read everything. If the machine of the peer does not answer, the error
	// also matches syscall.ETIMEDOUT; see Config.DeadAfter.
	ErrPeerGone = errors.New("peer gone without a goodbye")

	// ErrWrongKind: the next message was sent with SendBytes and the receive is
	// for Send, or the reverse. The message stays for a receive of its kind.
	ErrWrongKind = errors.New("message of the other kind")

	// ErrBroken: an earlier send stopped in the middle of a frame, so nothing more
	// can be sent. The channel can still receive.
	ErrBroken = errors.New("channel broken in the middle of a frame")

	// ErrProtocol: the peer violated the protocol. The channel cannot receive any
	// more.
	ErrProtocol = errors.New("protocol violation")
)

// Error is the error of an operation on a channel. Its cause is another error of
// this package, a context's error, or an error of the network.
type Error struct {
	Op  string // "send", "receive", "ping" or "close"
	Err error
}

func (e *Error) Error() string { return "transport: " + e.Op + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// wrap makes *err an *Error, unless it is nil.
func wrap(op string, err *error) {
	if *err != nil {
		*err = &Error{op, *err}
	}
}

// SizeError reports a frame over the limit, which is Config.MaxFrameSize.
//
// If this side wanted to send the frame, nothing was written, and the channel works
// on. If the peer announced it, the error matches ErrProtocol, nothing was
// allocated for the frame, and the channel cannot receive any more.
type SizeError struct {
	Size, Limit int64 // in bytes; the kind counts and the length field does not
	received    bool
}

func (e *SizeError) Error() string {
	if e.received {
		return fmt.Sprintf("peer announced a frame of %d bytes, the limit is %d", e.Size, e.Limit)
	}
	return fmt.Sprintf("frame of %d bytes is over the limit of %d; nothing was written", e.Size,
		e.Limit)
}

// Is reports whether target is ErrProtocol and the peer announced the frame.
func (e *SizeError) Is(target error) bool { return e.received && target == ErrProtocol }

// ShortBufferError reports that the buffer of a RecvBytes is too small. The message
// stays for a call with a buffer of Need bytes. The error matches io.ErrShortBuffer.
type ShortBufferError struct {
	Need int
	have int
}

func (e *ShortBufferError) Error() string {
	return fmt.Sprintf(
		"buffer of %d bytes, the message has %d; it stays until a large enough buffer comes",
		e.have, e.Need)
}

// Is reports whether target is io.ErrShortBuffer.
func (e *ShortBufferError) Is(target error) bool { return target == io.ErrShortBuffer }

// EncodeError reports that a value has no encoding in CBOR. Nothing was written.
type EncodeError struct {
	Type string // the value's Go type
	Err  error
}

func (e *EncodeError) Error() string {
	return fmt.Sprintf("cannot encode %s as CBOR; nothing was written: %v", e.Type, e.Err)
}
func (e *EncodeError) Unwrap() error { return e.Err }

// DecodeError reports a message that is not CBOR, or does not fit the value for it.
// The message is used up, and the channel works on.
type DecodeError struct {
	Type string // the Go type of the value
	Err  error
	size int // of the message, in bytes
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("cannot decode a message of %d bytes into %s: %v", e.size, e.Type, e.Err)
}
func (e *DecodeError) Unwrap() error { return e.Err }

// GoodbyeError reports that the peer closed the channel in an orderly way, after
// its last message. It matches io.EOF.
type GoodbyeError struct {
	Status int    // 0 means success; a spawned child sends its exit status
	Reason string // the peer's own words, or ""
}

func (e *GoodbyeError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("peer said goodbye with status %d", e.Status)
	}
	return fmt.Sprintf("peer said goodbye with status %d: %s", e.Status, e.Reason)
}

// Is reports whether target is io.EOF.
func (e *GoodbyeError) Is(target error) bool { return target == io.EOF }

// textError has its own text and matches err. fmt.Errorf could make it, but the
// first use of package fmt would slow down the start of each child.
type textError struct {
	text string
	err  error
}

func (e *textError) Error() string { return e.text }
func (e *textError) Unwrap() error { return e.err }

// resetError is the ErrPeerGone of a connection that was reset.
type resetError struct{}

func (resetError) Error() string   { return ErrPeerGone.Error() + ": connection reset" }
func (resetError) Unwrap() []error { return []error{ErrPeerGone, syscall.ECONNRESET} }

// silentError is the ErrPeerGone of a connection whose other machine is silent.
type silentError struct{}

func (silentError) Error() string {
	return ErrPeerGone.Error() + ": its machine has not answered in time"
}

func (silentError) Unwrap() []error { return []error{ErrPeerGone, syscall.ETIMEDOUT} }

func wrongKind(got, want frame.Kind) error {
	text := fmt.Sprintf(
		"the next message is of kind %s, not %s; it stays until it is received as such", got, want)
	return &textError{text, ErrWrongKind}
}

// netError returns this package's error for an error of the channel's net.Conn.
func (c *Channel) netError(err error) error {
	switch {
	case c.death.isDead() || neterr.Silent(err):
		return silentError{}
	case errors.Is(err, net.ErrClosed):
		return ErrChannelClosed
	case neterr.PeerGone(err):
		return ErrPeerGone
	}
	return err
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
