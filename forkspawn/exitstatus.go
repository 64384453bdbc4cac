package forkspawn

import (
	"fmt"
	"syscall"
)

// ExitStatus is how a process ended. Its zero value says that this is not known: the process has not
// ended, or somebody else in the program waited for it (wait4(-1)) and took its status. Unknown
// is never success.
type ExitStatus struct {
	kind   exitKind
	code   int
	signal syscall.Signal
	core   bool
}

type exitKind uint8

const (
	exitUnknown exitKind = iota
	exitCode
	exitSignal
)

// Exited is the status of a process that exited with a code.
func Exited(code int) ExitStatus { return ExitStatus{kind: exitCode, code: code} }

// Killed is the status of a process that a signal ended; core tells whether it left a core dump.
func Killed(sig syscall.Signal, core bool) ExitStatus {
	return ExitStatus{kind: exitSignal, signal: sig, core: core}
}

// Known tells whether the status is known.
func (s ExitStatus) Known() bool { return s.kind != exitUnknown }

// Success tells whether the process exited with code 0.
func (s ExitStatus) Success() bool { return s.kind == exitCode && s.code == 0 }

// Code returns the exit code, or -1 when a signal ended the process or the status is unknown.
func (s ExitStatus) Code() int {
	if s.kind != exitCode {
		return -1
	}
	return s.code
}

// Signal returns the signal that ended the process, or 0.
func (s ExitStatus) Signal() syscall.Signal { return s.signal }

// String returns "exit status 3", "signal: killed", or "unknown exit status".
func (s ExitStatus) String() string {
	switch s.kind {
	case exitCode:
		return fmt.Sprintf("exit status %d", s.code)
	case exitSignal:
		if s.core {
			return fmt.Sprintf("signal: %v (core dumped)", s.signal)
		}
		return fmt.Sprintf("signal: %v", s.signal)
	}
	return "unknown exit status"
}
