package forkspawn

import (
	"errors"
	"fmt"
)

// The start methods by name, for Config.Method.
const (
	// MethodExec is fork and exec of this program or any other. It is the default.
	MethodExec = "exec"

	// MethodInProcess runs the entry in a goroutine of this process, over a socket pair: for debugging, and for
	// fast unit tests. Spawn, Child and the entry's Parent are the same, with these differences. There
	// is no process: PID is 0; the command, the spec's Dir and Config.Listen, Stdin and Stdout do not apply, and a
	// command or a Dir that is not empty is an error. A panic in the entry ends the entry alone, with status 2 and with its
	// stack where another child's stderr is. SIGTERM and SIGKILL end the entry's context and cut its
	// connection; a goroutine that heeds neither cannot be ended, and Stop says so. An entry that calls
	// os.Exit ends the whole program.
	MethodInProcess = "inprocess"

	// MethodForkserver forks children, without exec, from a template: a process of this program that has been started once,
	// has done what Config.WarmUp says, and waits. A child starts with all that the template has in memory, and shares that with it until
	// one of them writes to it. linux/amd64, in a program that is built with CGO_ENABLED=0; see the package comment.
	MethodForkserver = "forkserver"

	methodLivefork = "livefork"
)

// The ways in which a start method can be refused, for errors.Is.
var (
	ErrMethodUnknown     = errors.New("no such start method")
	ErrMethodReserved    = errors.New("the name is reserved for a later version")
	ErrMethodUnavailable = errors.New("not available on this platform")
)

// errUnsupported is ErrMethodUnavailable, and also matches errors.ErrUnsupported.
func errUnsupported() error { return fmt.Errorf("%w: %w", ErrMethodUnavailable, errors.ErrUnsupported) }

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

const useExec = `use "exec"`

// checkMethod refuses all that is not there, on a platform that can start processes or not. A reserved name never
// becomes another method.
func checkMethod(name string, canExec, canFork bool) error {
	const useInProcess = `"inprocess" works, and so do packages transport and handshake`
	switch name {
	case MethodExec:
		if !canExec {
			return &MethodError{name, errUnsupported(), useInProcess}
		}
		return nil
	case MethodInProcess:
		return nil
	case MethodForkserver:
		if !canFork {
			return &MethodError{name, errUnsupported(), useExec}
		}
		return nil
	case methodLivefork:
		return &MethodError{name, ErrMethodReserved, `the Go runtime cannot fork while it runs (golang/go#77032), "forkserver" takes its place; ` + useExec}
	}
	return &MethodError{name, ErrMethodUnknown, useExec}
}
