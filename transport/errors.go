package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// The causes that a caller can tell apart with errors.Is.
var (
	// ErrClosed: this side closed the channel. It matches net.ErrClosed too.
	ErrClosed error = &kindError{"channel closed: " + net.ErrClosed.Error(), net.ErrClosed}

	// ErrPeerGone: the stream ended, or was reset, with no goodbye before it: the peer crashed,
	// was killed, or the connection was cut. End of file, EPIPE, ECONNRESET and ETIMEDOUT are the
	// same news and all give this error. An orderly close gives a GoodbyeError instead.
	ErrPeerGone = errors.New("peer gone without a goodbye")

	// ErrReset is the ErrPeerGone, which it matches, of a receive on a connection that was reset: where the
	// kernel tells so (Linux), the peer ended before it had read all that was sent to it.
	ErrReset error = &kindError{ErrPeerGone.Error() + ": connection reset", ErrPeerGone}

	// ErrBroken: an earlier send stopped in the middle of a frame, so that nothing more can be
	// sent. Receiving still works.
	ErrBroken = errors.New("channel broken in the middle of a frame")

	// ErrProtocol: the peer sent what the protocol does not allow here. The channel cannot be
	// read any further.
	ErrProtocol = errors.New("protocol violation")
)

// kindError is a sentinel that is also a kind of a more general error. Package fmt would make one as well, but every child
// would pay for its first use of that as it starts: see bench/startcost.
type kindError struct {
	text string
	kind error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }

// Error is the error of a channel's operation. Its cause is one of this package's other errors, a
// context's error, or the network's.
type Error struct {
	Op  string // "send", "receive", "ping" or "close"
	Err error
}

func (e *Error) Error() string { return "transport: " + e.Op + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// SizeError says that a frame is larger than the channel's limit. On the sending side nothing was
// written and the channel works on. On the receiving side nothing was allocated for it, and the
// channel cannot be read any further; the error matches ErrProtocol then.
type SizeError struct {
	Size, Limit int64 // bytes, as the frame's length field counts them: the kind and the body
	Received    bool  // the peer announced it; otherwise this side tried to send it
}

func (e *SizeError) Error() string {
	if e.Received {
		return fmt.Sprintf("peer announced a frame of %d bytes, the limit is %d", e.Size, e.Limit)
	}
	return fmt.Sprintf("frame of %d bytes is over the limit of %d; nothing was written", e.Size, e.Limit)
}

// Is makes a received oversize frame match ErrProtocol.
func (e *SizeError) Is(target error) bool { return e.Received && target == ErrProtocol }

// KindError says that the next message is of the other kind than the receive that was called:
// Recv takes KindMessage, RecvBytes takes KindRaw. The message is not lost: the right call gets it.
type KindError struct{ Got, Want Kind }

func (e *KindError) Error() string {
	return fmt.Sprintf("the next message is of kind %s, not %s; it stays until it is received as such", e.Got, e.Want)
}

// ShortBufferError says that RecvBytes was given too small a buffer. The message is not lost: a call
// with Need bytes gets it. It matches io.ErrShortBuffer.
type ShortBufferError struct{ Have, Need int }

func (e *ShortBufferError) Error() string {
	return fmt.Sprintf("buffer of %d bytes, the message has %d; it stays until a large enough buffer comes", e.Have, e.Need)
}

// Is makes the error match io.ErrShortBuffer.
func (e *ShortBufferError) Is(target error) bool { return target == io.ErrShortBuffer }

// EncodeError says that a value could not be encoded as CBOR. Nothing was written.
type EncodeError struct {
	Type string // the value's Go type
	Err  error
}

func (e *EncodeError) Error() string {
	return fmt.Sprintf("cannot encode %s as CBOR; nothing was written: %v", e.Type, e.Err)
}
func (e *EncodeError) Unwrap() error { return e.Err }

// DecodeError says that a whole message arrived which is not CBOR, or not such as fits the value it
// was to be decoded into. That message is used up; the channel works on.
type DecodeError struct {
	Type string // the Go type that the message was to be decoded into
	Size int    // the message's size in bytes
	Err  error
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("cannot decode a message of %d bytes into %s: %v", e.Size, e.Type, e.Err)
}
func (e *DecodeError) Unwrap() error { return e.Err }

// GoodbyeError says that the peer closed the channel in an orderly way, after all its messages.
// It matches io.EOF.
type GoodbyeError struct {
	Status int    // 0: all is well; a spawned child gives its exit status
	Reason string // the peer's own words, or ""
}

func (e *GoodbyeError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("peer said goodbye with status %d", e.Status)
	}
	return fmt.Sprintf("peer said goodbye with status %d: %s", e.Status, e.Reason)
}

// Is makes the error match io.EOF.
func (e *GoodbyeError) Is(target error) bool { return target == io.EOF }

// contextError carries both what kind of end a context had and its cause, so that errors.Is finds
// context.Canceled and the caller's own cause.
type contextError struct{ err, cause error }

func newContextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || cause == err {
		return err
	}
	return &contextError{err, cause}
}

func (e *contextError) Error() string   { return e.err.Error() + ": " + e.cause.Error() }
func (e *contextError) Unwrap() []error { return []error{e.err, e.cause} }

// netError turns what a net.Conn returned into this package's news: one error for all ways in which
// a peer can be gone, ErrClosed for our own close, anything else as it is.
func netError(err error) error {
	switch {
	case errors.Is(err, net.ErrClosed):
		return ErrClosed
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe), isReset(err):
		return ErrPeerGone
	}
	return err
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
