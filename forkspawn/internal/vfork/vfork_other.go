//go:build !(linux && amd64)

package vfork

import (
	"errors"
	"syscall"
)

// Attr is described where Start works.
type Attr struct {
	Path              string
	Args              []string
	Env               []string
	Dir               string
	Files             [3]int
	OwnGroup          bool
	ParentDeathSignal syscall.Signal
}

// Error is a failed start.
type Error struct {
	Step string
	Err  syscall.Errno
}

func (e *Error) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Supported reports false here.
func Supported() bool { return false }

// Start fails here.
func Start(*Attr) (pid, pidfd int, err error) {
	return 0, -1, errors.ErrUnsupported
}
