package uds

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

var (
	// ErrInUse says that a socket may not be taken over: something is bound to it, or it cannot be
	// told that nothing is. It matches syscall.EADDRINUSE too.
	ErrInUse error = &kindError{"address in use by another socket", syscall.EADDRINUSE}

	// ErrNotSocket says that something that is not a socket is where a socket should be made or
	// removed. It is left as it is.
	ErrNotSocket = errors.New("not a socket")

	// ErrNoAbstract says that this platform has no abstract names: only Linux has. It matches
	// [errors.ErrUnsupported] too.
	ErrNoAbstract error = &kindError{"abstract socket names exist on Linux only; use a path", errors.ErrUnsupported}

	// ErrNotUnix says that a connection is not a Unix socket's.
	ErrNotUnix = errors.New("not a Unix socket connection")

	// ErrNotDescendant says that a process is not shown to descend from another.
	ErrNotDescendant = errors.New("not shown to be a descendant")
)

// PathError says that a socket's path or abstract name is longer than the platform can bind or
// dial (sun_path in unix(7)). Nothing was done.
type PathError struct {
	Path  string // the path, or the abstract name with its "@"
	Len   int    // its length in bytes, without the "@"
	Limit int    // the most that is possible, in bytes: 107 on Linux and Windows, 103 on Darwin
}

func (e *PathError) Error() string {
	return fmt.Sprintf("uds: socket path %q has %d bytes, the limit is %d", e.Path, e.Len, e.Limit)
}

// allOf are several errors in one line.
type allOf []error

func (e allOf) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}
func (e allOf) Unwrap() []error { return e }

// kindError is a sentinel that is also a kind of a more general error.
type kindError struct {
	text string
	kind error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.kind }
