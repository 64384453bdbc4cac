package forkspawn

import (
	"context"
	"log/slog"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
)

// Trace is a set of functions that a Spawner calls as its children live and die, in the habit of
// net/http/httptrace: enough to build metrics on. Each of them may be nil.
//
// They are called from the goroutine in which the thing happens, so they must return soon and must not
// wait for a child; several children's calls come at the same time. Of one child, Started comes
// first, then Phase for each phase, in order, then Ready or BootFailed, then Asked, Signalled and
// Stopped; Signalled comes before BootFailed when a start that failed had to be ended. Exited comes once, when the
// process has ended, at any time after Started, and before BootFailed, Stopped and whatever else tells of that
// end. A start that failed before there was a process has BootFailed
// alone. Of a child that was a spare (Config.Spares) all is told, with its times, when Spawn knows what comes of it: Started with when it
// got its spec, then the phases from "spec" on.
type Trace struct {
	// Started: the process runs.
	Started func(ChildEvent)
	// Phase: the start entered a phase. "start" is not told, as Spawn's caller knows; "hello" only where the
	// kernel tells who has connected, and where the child was not too fast; "ready" means that the child's
	// word of it was read.
	Phase func(ChildEvent, handshake.Phase)
	// Ready: Spawn returns the child.
	Ready func(ChildEvent, BootTimes)
	// BootFailed: Spawn returns this error, and nothing of the child is left.
	BootFailed func(ChildEvent, *BootError)
	// Asked: the child is asked to stop. Stop, or what calls it, waits for so long before it uses force; 0 is Cancel, which
	// uses none.
	Asked func(e ChildEvent, grace time.Duration)
	// Signalled: a signal was sent to the child, or to its process group, or could not be.
	Signalled func(ChildEvent, SignalInfo)
	// Exited: the process has ended.
	Exited func(ChildEvent, ExitStatus)
	// Stopped: Stop has ended the child, or has failed to.
	Stopped func(ChildEvent, StopResult, error)
	// Restarting: a Group starts a child anew, after a pause. The event has the id and the pid of the one that ended,
	// which are empty if it was never started.
	Restarting func(ChildEvent, RestartInfo)
}

// ChildEvent says of which child, and when.
type ChildEvent struct {
	Name string
	ID   string // unique
	PID  int    // 0 when there is no process
	At   time.Time
}

// SignalInfo is a signal that the library, or Child.Signal, sent.
type SignalInfo struct {
	Signal syscall.Signal
	Group  bool  // to the whole process group
	Err    error // nil when it was sent; os.ErrProcessDone when there was nobody any more
}

// logArgs are the event's attributes for a logger.
func (e ChildEvent) logArgs(more ...any) []any {
	return append([]any{"name", e.Name, "id", e.ID, "pid", e.PID}, more...)
}

// teller tells what happens to the logger and to the caller's Trace. The levels: Debug for the usual
// course of a child's life, Info for a restart after a good end, Warn for force, failures and restarts after
// them, Error for what is left behind.
type teller struct {
	log   *slog.Logger
	trace Trace
}

func (t *teller) write(level slog.Level, msg string, e ChildEvent, more ...any) {
	if t.log.Enabled(context.Background(), level) {
		t.log.Log(context.Background(), level, "forkspawn: "+msg, e.logArgs(more...)...)
	}
}

func (t *teller) started(e ChildEvent) {
	t.write(slog.LevelDebug, "child started", e)
	if t.trace.Started != nil {
		t.trace.Started(e)
	}
}

func (t *teller) phase(e ChildEvent, p handshake.Phase) {
	if t.trace.Phase != nil {
		t.trace.Phase(e, p)
	}
}

func (t *teller) ready(e ChildEvent, times BootTimes) {
	t.write(slog.LevelDebug, "child ready", e, "after", times.Total)
	if t.trace.Ready != nil {
		t.trace.Ready(e, times)
	}
}

// bootFailed logs at Debug: the caller has the error.
func (t *teller) bootFailed(err *BootError) {
	e := ChildEvent{err.Name, err.ID, err.PID, time.Now()}
	t.write(slog.LevelDebug, "boot failed", e, "phase", string(err.Phase), "error", err.Err)
	if t.trace.BootFailed != nil {
		t.trace.BootFailed(e, err)
	}
}

func (t *teller) asked(e ChildEvent, grace time.Duration) {
	t.write(slog.LevelDebug, "child asked to stop", e, "grace", grace)
	if t.trace.Asked != nil {
		t.trace.Asked(e, grace)
	}
}

func (t *teller) signalled(level slog.Level, e ChildEvent, s SignalInfo) {
	if s.Err == nil {
		t.write(level, "signal sent", e, "signal", s.Signal.String(), "group", s.Group)
	} else {
		t.write(level, "signal not sent", e, "signal", s.Signal.String(), "group", s.Group, "error", s.Err)
	}
	if t.trace.Signalled != nil {
		t.trace.Signalled(e, s)
	}
}

func (t *teller) exited(e ChildEvent, s ExitStatus) {
	t.write(slog.LevelDebug, "child ended", e, "status", s.String())
	if t.trace.Exited != nil {
		t.trace.Exited(e, s)
	}
}

// writerLate: a bound of teardown has expired.
func (t *teller) writerLate(e ChildEvent) {
	t.write(slog.LevelWarn, "the writer of a captured stream takes longer than "+sinkTimeout.String()+"; not waited for any more", e)
}

func (t *teller) stopped(e ChildEvent, r StopResult, err error) {
	if err != nil {
		t.write(slog.LevelError, "child could not be stopped", e, "error", err)
	} else {
		t.write(slog.LevelDebug, "child stopped", e, "result", r.String(), "after", r.Elapsed)
	}
	if t.trace.Stopped != nil {
		t.trace.Stopped(e, r, err)
	}
}

// spareFailed is no event: a spare is nobody's child.
func (t *teller) spareFailed(level slog.Level, err error, pause time.Duration) {
	t.log.Log(context.Background(), level, "forkspawn: spares cannot be had; trying again", "error", err, "pause", pause)
}

func (t *teller) restarting(e ChildEvent, r RestartInfo) {
	if r.Cause != nil {
		t.write(slog.LevelWarn, "child is restarted", e, "restarts", r.Restarts, "pause", r.Pause, "cause", r.Cause)
	} else {
		t.write(slog.LevelInfo, "child is restarted", e, "restarts", r.Restarts, "pause", r.Pause)
	}
	if t.trace.Restarting != nil {
		t.trace.Restarting(e, r)
	}
}
