// Package wait has waits for channels and contexts, for several packages.
package wait

import (
	"context"
	"os"
	"time"
)

// Closed reports whether c is closed, without waiting. Nothing is ever sent on c.
func Closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// For waits until c is closed, bound has passed or ctx has ended, and reports whether c is closed.
func For(ctx context.Context, c <-chan struct{}, bound time.Duration) bool {
	if Closed(c) {
		return true
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
	case <-ctx.Done():
	}
	return Closed(c)
}

// Deadline sets a deadline in the past when ctx ends, which ends a read, write or accept.
// stop takes it back.
func Deadline(ctx context.Context, set func(time.Time) error) (stop func()) {
	ended := make(chan struct{})
	detach := context.AfterFunc(ctx, func() {
		defer close(ended)
		set(time.Unix(1, 0))
	})
	return func() {
		if !detach() {
			<-ended
			set(time.Time{})
		}
	}
}

// ForFile waits until the file system of path answers, or until ctx has ended, and
// reports whether it answers. A file system that hangs keeps a goroutine waiting.
func ForFile(ctx context.Context, path string) bool {
	answered := make(chan struct{})
	go func() {
		os.Stat(path) // its error is an answer, too
		close(answered)
	}()
	select {
	case <-answered:
		return true
	case <-ctx.Done():
		return false
	}
}

// Cause returns the error of an ended context. It has the text of the cause, and
// errors.Is finds both the cause and ctx.Err().
func Cause(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == cause { //nolint:errorlint // the very same
		return err
	}
	return Both(cause, err)
}

// Both returns an error with the text of said. errors.Is and errors.As find both
// said and also in it.
func Both(said, also error) error { return &both{said, also} }

type both struct{ said, also error }

func (e *both) Error() string   { return e.said.Error() }
func (e *both) Unwrap() []error { return []error{e.said, e.also} }
