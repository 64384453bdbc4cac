package forkspawn

import (
	"errors"
	"fmt"
)

// The start methods by name, for Config.Method.
const (
	// MethodExec is fork and exec of this program or any other. It is the default.
	MethodExec = "exec"

	methodForkserver = "forkserver"
	methodInprocess  = "inprocess"
	methodLivefork   = "livefork"
)

// The ways in which a start method can be refused, for errors.Is.
var (
	ErrMethodUnknown     = errors.New("no such start method")
	ErrMethodReserved    = errors.New("the name is reserved for a later version")
	ErrMethodUnavailable = errors.New("not available on this platform")
)

// errUnsupported also matches errors.ErrUnsupported.
var errUnsupported = fmt.Errorf("%w: %w", ErrMethodUnavailable, errors.ErrUnsupported)

// MethodError says why a start method cannot be had, and what can.
type MethodError struct {
	Method string
	Err    error // one of the ErrMethod errors
	Remedy string
}

func (e *MethodError) Error() string {
	return fmt.Sprintf("forkspawn: start method %q: %v; %s", e.Method, e.Err, e.Remedy)
}
func (e *MethodError) Unwrap() error { return e.Err }

// checkMethod refuses all that is not there. A reserved name never becomes another method.
func checkMethod(name string) error {
	const useExec = `use "exec"`
	switch name {
	case MethodExec:
		if !canExec {
			return &MethodError{name, errUnsupported, "this library starts no processes here; packages transport and handshake work"}
		}
		return nil
	case methodForkserver, methodInprocess:
		return &MethodError{name, ErrMethodReserved, useExec}
	case methodLivefork:
		return &MethodError{name, ErrMethodReserved, `the Go runtime cannot fork while it runs (golang/go#77032), "forkserver" is meant to take its place; ` + useExec}
	}
	return &MethodError{name, ErrMethodUnknown, useExec}
}
