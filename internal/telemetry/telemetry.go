// Package telemetry has the values of labels and attributes for both observe/prometheus and
// observe/otel.
package telemetry

import (
	"syscall"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
)

var endings = map[forkspawn.Ending]string{
	forkspawn.AlreadyEnded: "ended", forkspawn.Asked: "asked",
	forkspawn.Terminated: "sigterm", forkspawn.Killed: "sigkill",
}

// StoppedBy returns what has ended a child, or "error" if Stop has failed.
func StoppedBy(stop forkspawn.StopResult, err error) string {
	if err != nil {
		return "error"
	}
	return endings[stop.By]
}

// Result returns how a child has ended.
func Result(status forkspawn.ExitStatus) string {
	switch {
	case !status.Known():
		return "unknown"
	case status.Success():
		return "success"
	case status.Signal() != syscall.Signal(0):
		return "signal"
	}
	return "failure"
}

// ErrorType returns the code of a failed call, or "_OTHER" as OpenTelemetry's conventions
// have it. For a call without an error it returns "".
func ErrorType(e call.Event) string {
	if e.Err != nil && e.Code == "" {
		return "_OTHER"
	}
	return string(e.Code)
}
