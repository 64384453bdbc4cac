package forkspawn

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
)

// ErrBootTimeout is the cause of a boot that took longer than Config.BootTimeout.
var ErrBootTimeout = errors.New("not ready in time")

// PhaseTime is how long one phase of a boot took, or had taken when it failed.
type PhaseTime struct {
	Phase    handshake.Phase
	Duration time.Duration
}

// BootError says what happened to a child that did not become ready. When Spawn returns one, nothing of
// the child is left.
//
// errors.Is and errors.As find in it: [ErrDied]; [handshake.ErrUnknownEntry], [handshake.ErrBadSpec] and a
// [*handshake.FailedError] with the child's own words; [*handshake.VersionError]; [handshake.ErrBadMAC];
// [ErrBootTimeout]; the caller's context's error and cause; [ErrClosed]; and for a failed start the
// system's error in a [*fs.PathError]: fs.ErrNotExist, fs.ErrPermission, syscall.ENOEXEC; and a
// [*ResourceError] for want of descriptors, processes, memory or a device.
type BootError struct {
	Name string // of the child
	ID   string
	PID  int // 0 when it was not started

	// Phase is the step that did not complete.
	Phase handshake.Phase
	// Status is how the child ended by itself; unknown when it did not, and was killed by Spawn.
	Status ExitStatus
	// Stderr is the end, at most 4 KiB, of what the child wrote to a captured stderr; see Child.StderrTail.
	Stderr string
	// Elapsed is the time from the call of Spawn to the failure; Phases shares it among the phases.
	Elapsed time.Duration
	Phases  []PhaseTime
	// Err is the cause.
	Err error
}

// Error returns one line: the child, the phase, what happened, how long each phase took, and the last
// line that the child wrote to stderr. Stderr has more.
func (e *BootError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "forkspawn: spawn %q", e.Name)
	if e.PID != 0 {
		fmt.Fprintf(&b, " (pid %d)", e.PID)
	}
	fmt.Fprintf(&b, ": %s: %v", e.Phase, e.Err)
	if e.Status.Known() {
		fmt.Fprintf(&b, ": %v", e.Status)
	}
	fmt.Fprintf(&b, "; after %v", roundTime(e.Elapsed))
	if len(e.Phases) > 0 {
		b.WriteString(" (")
		for i, p := range e.Phases {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%s %v", p.Phase, roundTime(p.Duration))
		}
		b.WriteString(")")
	}
	if line := lastLine(e.Stderr); line != "" {
		fmt.Fprintf(&b, "; stderr: %s", quoted(line))
	}
	return b.String()
}

func (e *BootError) Unwrap() error { return e.Err }

// maxQuoted bounds what an error's text has of a line of stderr, in bytes before quoting. The error's fields have
// all of it.
const maxQuoted = 512

// quoted is a line in quotes, without its middle if it is too long.
func quoted(line string) string {
	if over := len(line) - maxQuoted; over > 0 {
		half := maxQuoted / 2
		return fmt.Sprintf("%q (%d bytes) %q", line[:half], over, line[len(line)-half:])
	}
	return strconv.Quote(line)
}

// roundTime keeps three digits or so.
func roundTime(d time.Duration) time.Duration {
	for unit := time.Second; unit > time.Microsecond; unit /= 10 {
		if d >= 100*unit {
			return d.Round(unit)
		}
	}
	return d.Round(time.Microsecond)
}

// ExitError is the error of speaking with a child that has ended, and of a child that has failed.
type ExitError struct {
	Name   string
	PID    int
	Status ExitStatus
	Said   string // what the child said as it closed, at most 4 KiB: of an entry, its error
	Stderr string // the end, at most 4 KiB, of a captured stderr
	Err    error  // what the channel said, if it was asked
}

// Error returns the child, its status, and what it said or, if it said nothing, the last line that it wrote to
// stderr. What it said can have several lines: those after the first are indented.
func (e *ExitError) Error() string {
	s := fmt.Sprintf("forkspawn: child %q (pid %d) ended: %v", e.Name, e.PID, e.Status)
	if e.Said != "" {
		return s + ": " + strings.ReplaceAll(strings.TrimSpace(e.Said), "\n", "\n\t")
	}
	if line := lastLine(e.Stderr); line != "" && !e.Status.Success() {
		s += "; stderr: " + quoted(line)
	}
	return s
}

func (e *ExitError) Unwrap() error { return e.Err }
