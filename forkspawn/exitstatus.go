package forkspawn

import (
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// ExitStatus is how a process ended. The zero ExitStatus is unknown: the process
// has not ended, or other code in this program has taken its status (wait4 with
// pid -1), or this program ignores SIGCHLD, so that the kernel keeps none. An
// unknown status is never a success.
type ExitStatus struct{ s osproc.Status }

// Usage is the use of resources by a process and by its reaped descendants
// (getrusage(2)).
type Usage struct {
	User, System time.Duration // of the processors, in the program and in the kernel
	// MaxRSS is the peak memory of the largest process, in bytes. On Linux it is at
	// least the parent's memory at the start, because the child shares that memory
	// until exec.
	MaxRSS int64
}

// Usage returns the child's use of resources. It is zero while the child runs, for an
// entry in this process, and if the exit status is unknown. With Config.Start it calls
// a method Usage of the [Process], if there is one.
func (c *Child) Usage() Usage {
	p, ok := c.proc.(interface{ Usage() Usage })
	if !ok || !wait.Closed(c.exited) {
		return Usage{}
	}
	return p.Usage()
}

// Usage returns the use of resources, after Wait.
func (p osProcess) Usage() Usage { return Usage(p.Process.Usage()) }

// ExitedStatus returns the status of a process that exited with a code.
func ExitedStatus(code int) ExitStatus { return ExitStatus{osproc.Exited(code)} }

// KilledStatus returns the status of a process ended by a signal. core is true if it
// left a core dump.
func KilledStatus(sig syscall.Signal, core bool) ExitStatus {
	return ExitStatus{osproc.Killed(sig, core)}
}

// Known reports whether the status is known.
func (s ExitStatus) Known() bool { return s.s.Known }

// Success reports whether the process exited with code 0.
func (s ExitStatus) Success() bool { return s.s == osproc.Exited(0) }

// Code returns the exit code. It returns -1 if a signal ended the process, or the
// status is unknown.
func (s ExitStatus) Code() int {
	if !s.s.Known {
		return -1
	}
	return s.s.Code
}

// Signal returns the signal that ended the process, or 0.
func (s ExitStatus) Signal() syscall.Signal { return s.s.Signal }

// String returns "exit status 3", "signal: killed", or "unknown exit status",
// with the reason if SIGCHLD is ignored.
func (s ExitStatus) String() string { return s.s.String() }
