package osproc

import (
	"errors"
	"fmt"
	"os/signal"
	"syscall"
	"time"
)

// Status is how a process ended. The zero Status is unknown.
type Status struct {
	Known  bool
	Code   int            // the exit code, or -1 when a signal ended the process
	Signal syscall.Signal // the signal that ended the process, or 0
	Core   bool           // whether it left a core dump
}

// Usage is what a process and its reaped descendants have used (getrusage(2)).
type Usage struct {
	User, System time.Duration // of the processors
	MaxRSS       int64         // the most memory of one of them, in bytes
}

// Exited returns the status of a process that exited with a code.
func Exited(code int) Status { return Status{Known: true, Code: code} }

// Killed returns the status of a process ended by a signal.
func Killed(sig syscall.Signal, core bool) Status {
	return Status{Known: true, Code: -1, Signal: sig, Core: core}
}

// String returns "exit status 3", "signal: killed", or "unknown exit status".
func (s Status) String() string {
	switch {
	case !s.Known && StatusesDiscarded():
		return "unknown exit status (this program ignores SIGCHLD)"
	case !s.Known:
		return "unknown exit status"
	case s.Signal == 0:
		return fmt.Sprintf("exit status %d", s.Code)
	case s.Core:
		return fmt.Sprintf("signal: %v (core dumped)", s.Signal)
	}
	return fmt.Sprintf("signal: %v", s.Signal)
}

// StatusesDiscarded reports whether this program ignores SIGCHLD. Then the kernel
// keeps no exit statuses of its children (wait(2)).
func StatusesDiscarded() bool { return signal.Ignored(SIGCHLD) }

// ErrUnkillable is the error of a process that SIGKILL has not ended in time.
var ErrUnkillable = errors.New("still alive some time after SIGKILL")
