// Package neterr examines the errors of connections and contexts.
package neterr

import (
	"context"
	"errors"
	"io"
)

// Context returns the error of an ended context. If the context has another cause,
// the error matches both.
func Context(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == nil || cause == err { //nolint:errorlint // the very same
		return err
	}
	return &contextError{err, cause}
}

type contextError struct{ err, cause error }

func (e *contextError) Error() string   { return e.err.Error() + ": " + e.cause.Error() }
func (e *contextError) Unwrap() []error { return []error{e.err, e.cause} }

// ErrEnding matches the error of a call that a peer has not taken because it ends. So
// forkspawn knows such errors, which stands below package call.
var ErrEnding = errors.New("the peer ends")

// PeerGone reports whether a call failed with err because the peer has closed the
// connection or the network has cut it.
func PeerGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, io.ErrClosedPipe) || wasCut(err) || Silent(err)
}
