package forkspawn

import (
	"context"
	"log/slog"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/handshake"
)

// Trace is a set of functions for the events of children, like those of
// net/http/httptrace. Metrics can be built on it. Each function may be nil.
//
// The functions are called from the goroutine of the event. They must return
// soon, and must not wait for a child. They are called concurrently for several
// children.
//
// The order for one child is: Started; Phase for each phase; Ready or BootFailed;
// Asked, Signalled and Stopped. If a failed start had to be killed, Signalled
// comes before BootFailed. Exited is called once, at any time after Started, but
// before BootFailed, Stopped, and every other report of that end. If no process
// was started, only BootFailed is called.
//
// For a spare (Config.Spares) the calls begin after a Spawn has taken it. The
// event of Started has the time when the spare got its spec, and the phases begin
// with "spec".
type Trace struct {
	// Started is called when the process is running.
	Started func(ChildEvent)
	// Phase is called when the start has entered a phase. There is no call for
	// "start". There is one for "hello" only if the kernel identifies the
	// client and the child is not too fast. The call for "ready" means that
	// the child's ready message was read.
	Phase func(ChildEvent, handshake.Phase)
	// Ready is called before Spawn returns the child.
	Ready func(ChildEvent, BootTimes)
	// BootFailed is called before Spawn returns the error. Nothing of the
	// child is left.
	BootFailed func(ChildEvent, *BootError)
	// Asked is called when the child is asked to stop. After grace, Stop uses
	// force. Zero means Child.RequestStop, without force.
	Asked func(e ChildEvent, grace time.Duration)
	// Signalled is called when a signal was sent to the child or, if group is
	// true, to its process group. err is not nil if it could not be sent. It
	// is os.ErrProcessDone if the process had ended.
	Signalled func(e ChildEvent, sig syscall.Signal, group bool, err error)
	// Exited is called when the process has ended.
	Exited func(ChildEvent, ExitStatus)
	// Stopped is called when Stop has ended the child, or has failed to.
	Stopped func(ChildEvent, StopResult, error)
	// Released is called when Release has let the child go. Nothing is reported of it
	// afterwards. Reattach reports Started and Ready.
	Released func(ChildEvent)
	// Restarting is called when a Group will restart a child after a pause.
	// The event has the id and the pid of the previous process. They are empty
	// if it was never started.
	// restarts counts those within GroupConfig.Window, including this one.
	// cause is the child's failure, or nil after success.
	Restarting func(e ChildEvent, restarts int, pause time.Duration, cause error)
}

// ChildEvent has the child and the time of an event.
type ChildEvent struct {
	Name string
	ID   string // unique
	PID  int    // 0 if there is no process
	At   time.Time

	// Context is the caller's context of the start, for Started, Phase, Ready and
	// BootFailed. It has the span around the start. For other events it is nil.
	Context context.Context
}

// logArgs returns the event's attributes for a logger.
func (e ChildEvent) logArgs(more ...any) []any {
	return append([]any{"name", e.Name, "id", e.ID, "pid", e.PID}, more...)
}

// reporter reports events to the Logger and to the Trace. Config.Logger documents
// the levels.
type reporter struct {
	log   *slog.Logger
	trace Trace
}

func (r *reporter) write(level slog.Level, msg string, e ChildEvent, more ...any) {
	if r.log.Enabled(context.Background(), level) {
		r.log.Log(context.Background(), level, "forkspawn: "+msg, e.logArgs(more...)...)
	}
}

func (r *reporter) started(e ChildEvent) {
	r.write(slog.LevelDebug, "child started", e)
	if r.trace.Started != nil {
		r.trace.Started(e)
	}
}

func (r *reporter) phase(e ChildEvent, p handshake.Phase) {
	if r.trace.Phase != nil {
		r.trace.Phase(e, p)
	}
}

func (r *reporter) ready(e ChildEvent, times BootTimes) {
	r.write(slog.LevelDebug, "child ready", e, "after", times.Total)
	if r.trace.Ready != nil {
		r.trace.Ready(e, times)
	}
}

// bootFailed logs at Debug, because the caller has the error.
func (r *reporter) bootFailed(ctx context.Context, err *BootError) {
	e := ChildEvent{err.Name, err.ID, err.PID, time.Now(), ctx}
	r.write(slog.LevelDebug, "boot failed", e, "phase", string(err.Phase), "error", err.err)
	if r.trace.BootFailed != nil {
		r.trace.BootFailed(e, err)
	}
}

func (r *reporter) asked(e ChildEvent, grace time.Duration) {
	r.write(slog.LevelDebug, "child asked to stop", e, "grace", grace)
	if r.trace.Asked != nil {
		r.trace.Asked(e, grace)
	}
}

func (r *reporter) signalled(
	level slog.Level, e ChildEvent, sig syscall.Signal, group bool, err error,
) {
	if err == nil {
		r.write(level, "signal sent", e, "signal", sig.String(), "group", group)
	} else {
		r.write(level, "signal not sent", e, "signal", sig.String(), "group", group, "error", err)
	}
	if r.trace.Signalled != nil {
		r.trace.Signalled(e, sig, group, err)
	}
}

func (r *reporter) exited(e ChildEvent, s ExitStatus) {
	r.write(slog.LevelDebug, "child ended", e, "status", s.String())
	if r.trace.Exited != nil {
		r.trace.Exited(e, s)
	}
}

func (r *reporter) released(e ChildEvent) {
	r.write(slog.LevelDebug, "child released", e)
	if r.trace.Released != nil {
		r.trace.Released(e)
	}
}

// statusesDiscarded reports that no exit statuses will be known.
func (r *reporter) statusesDiscarded() {
	if r.log != nil {
		r.log.Warn("this program ignores SIGCHLD: the exit statuses of its children are unknown")
	}
}

// writerLate reports a captured stream whose writer is too slow at the end.
func (r *reporter) writerLate(e ChildEvent) {
	r.write(slog.LevelWarn,
		"the writer of a captured stream takes longer than "+capture.WriterTimeout.String()+
			"; not waited for any more", e)
}

func (r *reporter) stopped(e ChildEvent, res StopResult, err error) {
	if err != nil {
		r.write(slog.LevelError, "child could not be stopped", e, "error", err)
	} else {
		r.write(slog.LevelDebug, "child stopped", e, "result", res.String(), "after", res.Elapsed)
	}
	if r.trace.Stopped != nil {
		r.trace.Stopped(e, res, err)
	}
}

// spareFailed only logs, because no caller knows the spare.
func (r *reporter) spareFailed(level slog.Level, err error, pause time.Duration) {
	r.log.Log(context.Background(), level, "forkspawn: spares cannot be had; trying again",
		"error", err, "pause", pause)
}

func (r *reporter) restarting(e ChildEvent, restarts int, pause time.Duration, cause error) {
	if cause != nil {
		r.write(slog.LevelWarn, "child is restarted", e, "restarts", restarts,
			"pause", pause, "cause", cause)
	} else {
		r.write(slog.LevelInfo, "child is restarted", e, "restarts", restarts, "pause", pause)
	}
	if r.trace.Restarting != nil {
		r.trace.Restarting(e, restarts, pause, cause)
	}
}
