package forkspawn

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// BootError reports a failed start. When Spawn returns one, nothing of the child
// is left.
//
// errors.Is, errors.As and Unwrap find the cause:
//
//   - [ErrDied], [ErrBootTimeout] and [ErrSpawnerClosed]
//   - the error and the cause of the caller's context
//   - [handshake.ErrUnknownEntry], [handshake.ErrBadSpec], and a
//     [*handshake.FailedError] with the child's own words
//   - [*handshake.VersionError] and [handshake.ErrBadMAC]
//   - for a failed start, the system's error in a [*fs.PathError]:
//     fs.ErrNotExist, fs.ErrPermission or syscall.ENOEXEC, for example
//   - a [*ResourceError] if descriptors, processes, memory or a device are
//     lacking
//   - an [*ExitError] with the Name "template" if the template of
//     [MethodForkserver] failed
type BootError struct {
	Name string // of the child
	ID   string // empty if no process was started
	PID  int    // 0 if no process was started

	// Phase is the step that did not complete.
	Phase handshake.Phase
	// Status is how the child ended by itself. It is unknown if Spawn had
	// to kill the child.
	Status ExitStatus
	// Stderr is the end, at most 4 KiB, of the child's captured stderr; see
	// Child.StderrTail.
	Stderr string
	// Elapsed is the time from the call of Spawn to the failure. Phases
	// divides it among the phases that have begun.
	Elapsed time.Duration
	Phases  map[handshake.Phase]time.Duration

	err error
}

// phaseOrder has the phases of a boot in their order.
var phaseOrder = [...]handshake.Phase{
	handshake.PhaseStart, handshake.PhaseConnect, handshake.PhaseHello,
	handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady,
}

// Error returns one line: the child, the phase, the cause, the time of each
// phase, and the last line of the child's stderr.
func (e *BootError) Error() string {
	var b strings.Builder
	b.WriteString("forkspawn: spawn")
	if e.Name != "" {
		fmt.Fprintf(&b, " %q", e.Name)
	}
	if e.PID != 0 {
		fmt.Fprintf(&b, " (pid %d)", e.PID)
	}
	fmt.Fprintf(&b, ": %s: %s", e.Phase, unprefixed(e.err))
	if e.Status.Known() {
		fmt.Fprintf(&b, ": %v", e.Status)
	}
	if e.Phase == handshake.PhaseConnect &&
		(e.Status.Success() || errors.Is(e.err, ErrBootTimeout)) {
		b.WriteString("; does the program call forkspawn.Init or Join?")
	}
	fmt.Fprintf(&b, "; after %v", roundTime(e.Elapsed))
	var phases []string
	for _, p := range phaseOrder {
		if d, ok := e.Phases[p]; ok {
			phases = append(phases, fmt.Sprintf("%s %v", p, roundTime(d)))
		}
	}
	if len(phases) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(phases, ", "))
	}
	return b.String() + capture.Quote(e.Stderr)
}

// Unwrap returns the cause.
func (e *BootError) Unwrap() error { return e.err }

// fail returns the error of a boot without a process.
func (b *boot) fail(cause error) *BootError {
	failed := time.Now()
	err := b.bootError(handshake.PhaseStart, cause, failed)
	err.Phases = map[handshake.Phase]time.Duration{handshake.PhaseStart: err.Elapsed}
	b.report.bootFailed(b.caller, err)
	return err
}

func (b *boot) bootError(phase handshake.Phase, cause error, failed time.Time) *BootError {
	return &BootError{Name: b.spec.Name, Phase: phase, err: cause,
		Elapsed: failed.Sub(b.called.Time)}
}

// phases divides the time until end among the phases that have begun.
func (a *attempt) phases(end time.Time) map[handshake.Phase]time.Duration {
	current, begun := handshake.PhaseConnect, a.began.Time
	if a.spare { // the phases before were over when Spawn was called
		current = handshake.PhaseSpec
	}
	if a.program {
		current = handshake.PhaseReady
	}
	times := map[handshake.Phase]time.Duration{handshake.PhaseStart: begun.Sub(a.called.Time)}
	since := map[handshake.Phase]time.Time{}
	if !a.program {
		since = a.expected.Internal(access.Key{}).Since()
	}
	for _, p := range phaseOrder[slices.Index(phaseOrder[:], current)+1:] {
		if t, ok := since[p]; ok {
			if t.Before(begun) {
				t = begun // the child can run before Spawn knows that it does
			}
			times[current] = t.Sub(begun)
			current, begun = p, t
		}
	}
	times[current] = end.Sub(begun)
	return times
}

// unprefixed returns the text of an error without this package's name, for use
// inside another error of this package.
func unprefixed(err error) string {
	if err == nil {
		return "unknown error"
	}
	return strings.TrimPrefix(err.Error(), "forkspawn: ")
}

// prefixed wraps err. Its text is "forkspawn: ", what, ": " and err's text.
func prefixed(what string, err error) error { return &opError{what, err} }

type opError struct {
	what string
	err  error
}

func (e *opError) Error() string { return "forkspawn: " + e.what + ": " + unprefixed(e.err) }
func (e *opError) Unwrap() error { return e.err }

// roundTime keeps about three digits.
func roundTime(d time.Duration) time.Duration {
	for unit := time.Second; unit > time.Microsecond; unit /= 10 {
		if d >= 100*unit {
			return d.Round(unit)
		}
	}
	return d.Round(time.Microsecond)
}

// ExitError is the error of a failed child. It is also the error of sending to,
// or receiving from, an ended child.
//
// With the Name "template" it reports that the template of [MethodForkserver] has
// ended or did not fork a child. If it has ended, the next Spawn starts another
// one. Running children are not affected.
type ExitError struct {
	Name   string
	PID    int
	Status ExitStatus // unknown if a template is running or was killed by the Spawner
	Said   string     // what the child said as it closed, at most 4 KiB: the error of its entry
	Stderr string     // the end, at most 4 KiB, of a captured stderr

	err      error // the channel's error, or nil; what happened to a template
	lost     error // see Launched.Err
	template bool
}

// Error returns the child, its status, and its last words or, if there are
// none, the last line of its stderr. The second and later lines of its words
// are indented.
func (e *ExitError) Error() string {
	if e.template {
		s := fmt.Sprintf("template (pid %d): %s", e.PID, unprefixed(e.err))
		if e.Status.Known() {
			s += ": " + e.Status.String()
		}
		return s + capture.Quote(e.Stderr)
	}
	s := "forkspawn: child"
	if e.Name != "" {
		s += fmt.Sprintf(" %q", e.Name)
	}
	s += fmt.Sprintf(" (pid %d) ended: %v", e.PID, e.Status)
	if e.lost != nil {
		s += ": " + e.lost.Error()
	}
	if e.Said != "" {
		return s + ": " + strings.ReplaceAll(strings.TrimSpace(e.Said), "\n", "\n\t")
	}
	if e.Status.Success() {
		return s
	}
	if errors.Is(e.err, ErrUnresponsive) {
		s += ": " + e.err.Error()
	}
	return s + capture.Quote(e.Stderr)
}

// Unwrap returns the channel's error, or nil. For a template it returns the cause. If
// a [Launcher] has lost the child, its error is found too.
func (e *ExitError) Unwrap() error {
	if e.lost != nil {
		return wait.Both(e.lost, e.err)
	}
	return e.err
}
