package otel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/telemetry"
)

type childMetrics struct {
	processes                                  metric.Int64UpDownCounter
	spawn                                      metric.Float64Histogram
	failures, exits, stops, restarts, releases metric.Int64Counter
}

func (in *instruments) children() childMetrics {
	return childMetrics{
		processes: in.gauge("spawnwire.processes", "{process}",
			"Children that run, also those that start or stop."),
		spawn: in.duration("spawnwire.spawn.duration",
			"From the start of a child until it is ready."),
		failures: in.counter("spawnwire.spawn.failures", "{start}", "Starts that have failed."),
		exits:    in.counter("spawnwire.exits", "{process}", "Ends of children."),
		stops:    in.counter("spawnwire.stops", "{stop}", "Stops, by what has ended the child."),
		restarts: in.counter("spawnwire.restarts", "{restart}", "Restarts by a Group."),
		releases: in.counter("spawnwire.releases", "{process}", "Children that were released."),
	}
}

// Children returns the Trace for a forkspawn.Config. Each call returns a new one, so a
// program can set functions of its own that have no span or metric: Phase, Asked and
// Signalled.
func (t *Telemetry) Children() *forkspawn.Trace {
	none, m := context.Background(), &t.children
	return &forkspawn.Trace{
		Started:    func(e forkspawn.ChildEvent) { m.processes.Add(e.Context, 1) },
		Ready:      t.ready,
		BootFailed: t.bootFailed,
		Exited: func(_ forkspawn.ChildEvent, status forkspawn.ExitStatus) {
			m.processes.Add(none, -1)
			m.exits.Add(none, 1, with("spawnwire.result", telemetry.Result(status)))
		},
		Stopped: func(_ forkspawn.ChildEvent, stop forkspawn.StopResult, err error) {
			m.stops.Add(none, 1, with("spawnwire.by", telemetry.StoppedBy(stop, err)))
		},
		Released: func(forkspawn.ChildEvent) {
			m.processes.Add(none, -1)
			m.releases.Add(none, 1)
		},
		Restarting: t.restarting,
	}
}

func with(key, value string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String(key, value))
}

// step is a part of a start.
type step struct {
	name string
	took time.Duration
}

func (t *Telemetry) ready(e forkspawn.ChildEvent, boot forkspawn.BootTimes) {
	spare := attribute.Bool("spawnwire.spare", boot.Spare)
	began := e.At.Add(-boot.Total)
	ctx, span := t.start(e.Context, "spawn", began, e, spare)
	t.steps(ctx, began, nil, []step{
		{"launch", boot.Launch}, {"runtime", boot.Runtime}, {"init", boot.Init},
		{"connect", boot.Connect}, {"hello", boot.Hello}, {"ready", boot.Ready},
	})
	t.children.spawn.Record(ctx, boot.Total.Seconds(), metric.WithAttributes(spare))
	span.End(trace.WithTimestamp(e.At))
}

func (t *Telemetry) bootFailed(e forkspawn.ChildEvent, err *forkspawn.BootError) {
	began := e.At.Add(-err.Elapsed)
	ctx, span := t.start(e.Context, "spawn", began, e)
	var steps []step
	for _, phase := range []handshake.Phase{
		handshake.PhaseStart, handshake.PhaseConnect, handshake.PhaseHello,
		handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady,
	} {
		steps = append(steps, step{string(phase), err.Phases[phase]})
	}
	t.steps(ctx, began, err, steps)
	t.children.failures.Add(ctx, 1, with("spawnwire.phase", string(err.Phase)))
	fail(span, string(err.Phase), err)
	span.End(trace.WithTimestamp(e.At))
}

// steps makes a span for each step with a time. err is that of the last one, or nil.
func (t *Telemetry) steps(
	ctx context.Context, at time.Time, err *forkspawn.BootError, steps []step,
) {
	for _, s := range steps {
		if s.took <= 0 {
			continue
		}
		_, span := t.tracer.Start(ctx, "spawn "+s.name, trace.WithTimestamp(at))
		at = at.Add(s.took)
		if err != nil && s.name == string(err.Phase) {
			fail(span, s.name, err)
		}
		span.End(trace.WithTimestamp(at))
	}
}

func (t *Telemetry) restarting(
	e forkspawn.ChildEvent, restarts int, pause time.Duration, cause error,
) {
	t.children.restarts.Add(context.Background(), 1)
	_, span := t.start(context.Background(), "restart", e.At, e,
		attribute.Int("spawnwire.restarts", restarts))
	if cause != nil {
		fail(span, "_OTHER", cause)
	}
	span.End(trace.WithTimestamp(e.At.Add(pause)))
}

// start begins a span about a child.
func (t *Telemetry) start(ctx context.Context, name string, at time.Time,
	e forkspawn.ChildEvent, more ...attribute.KeyValue,
) (context.Context, trace.Span) {
	attributes := append(more, attribute.String("spawnwire.child.name", e.Name))
	if e.ID != "" {
		attributes = append(attributes, attribute.String("spawnwire.child.id", e.ID))
	}
	if e.PID != 0 {
		attributes = append(attributes, attribute.Int("spawnwire.child.pid", e.PID))
	}
	return t.tracer.Start(ctx, name, trace.WithTimestamp(at), trace.WithAttributes(attributes...))
}

// fail sets the status of a span.
func fail(span trace.Span, kind string, err error) {
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	span.SetStatus(codes.Error, err.Error())
}
