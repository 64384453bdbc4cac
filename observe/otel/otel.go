// Package otel makes OpenTelemetry traces and metrics of children and calls.
//
//	telemetry, err := otel.New(otel.Config{})
//	spawner, err := forkspawn.New(forkspawn.Config{Trace: telemetry.Children()})
//	conn := call.Config{Trace: telemetry.Calls()}.New(child, nil)
//
// A child does the same, and serves with call.Config.Serve. Then a call is one trace through
// all processes: the context of each call goes with it, as metadata of package call. A child
// makes a provider and an exporter of its own in its entry; see the example.
//
// The package is a module of its own, so that Spawnwire itself does not need OpenTelemetry.
//
// # Spans
//
// The spans of calls follow OpenTelemetry's conventions for RPC, version 1.43: their name is
// the method, their kind client or server, rpc.system.name is "spawnwire", and error.type is
// the code of a failed call. A stream is one span. spawnwire.call.queue.duration is how long
// the call waited before it was sent, or before its handler ran, in seconds.
// spawnwire.call.sent and spawnwire.call.received have the bytes of its messages.
//
//   - spawn: the start of a child, within the span of the Spawn's context. Below it is a span
//     for each step, such as "spawn launch", as forkspawn.BootTimes and
//     forkspawn.BootError.Phases divide the time. After a failure, error.type is the phase.
//   - restart: the pause before a Group restarts a child, with the reason
//
// Both have spawnwire.child.name, and spawnwire.child.id and spawnwire.child.pid if a process
// was started.
//
// # Metrics
//
// The names are those of package observe/prometheus, with dots. Times are in seconds.
//
//   - rpc.client.call.duration, rpc.server.call.duration: calls from their beginning to their
//     result, by the attributes of the spans
//   - spawnwire.call.queue.duration, by spawnwire.side: client or server
//   - spawnwire.call.sent, spawnwire.call.received: bytes, by spawnwire.side and rpc.method
//   - spawnwire.calls: calls under way, by spawnwire.side
//   - spawnwire.processes: children that run, also those that start or stop
//   - spawnwire.spawn.duration: from the start of a child until it is ready, by
//     spawnwire.spare
//   - spawnwire.spawn.failures: starts that have failed, by spawnwire.phase
//   - spawnwire.exits: ends of children, by spawnwire.result: success, failure, signal, or
//     unknown
//   - spawnwire.stops: calls of Child.Stop, by spawnwire.by, which has ended the child: ended
//     (it had before), asked, sigterm, sigkill, or error
//   - spawnwire.restarts, spawnwire.releases: restarts by a Group; released children
package otel

import (
	"fmt"

	global "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of the instrumentation.
const scope = "github.com/spawnwire/spawnwire/observe/otel"

// Config has the settings of [New]. The zero value uses the global providers.
type Config struct {
	// TracerProvider is for the spans. nil means the global one, also if that is set
	// after New. For metrics only, set a provider of package trace/noop.
	TracerProvider trace.TracerProvider

	// MeterProvider is for the metrics. nil means the global one, also if that is set
	// after New. For spans only, set a provider of package metric/noop.
	MeterProvider metric.MeterProvider

	// Propagator writes the context of a call to its metadata, and reads it. nil means
	// the global one if it is set when New is called. If not, it means W3C Trace Context
	// and Baggage. Parents and children must have the same.
	Propagator propagation.TextMapPropagator
}

// Telemetry makes the spans and metrics of any number of Spawners and connections. Its
// methods may be called concurrently.
type Telemetry struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	fields     []string // of the propagator
	calls      callMetrics
	children   childMetrics
}

// New makes the instruments of metrics. Its error is that of the MeterProvider.
func New(cfg Config) (*Telemetry, error) {
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = global.GetTracerProvider()
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = global.GetMeterProvider()
	}
	if cfg.Propagator == nil {
		cfg.Propagator = global.GetTextMapPropagator()
		if len(cfg.Propagator.Fields()) == 0 { // none is set
			cfg.Propagator = propagation.NewCompositeTextMapPropagator(
				propagation.TraceContext{}, propagation.Baggage{})
		}
	}
	t := &Telemetry{
		tracer:     cfg.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: cfg.Propagator,
		fields:     cfg.Propagator.Fields(),
	}
	in := &instruments{
		meter: cfg.MeterProvider.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL)),
	}
	t.calls, t.children = in.calls(), in.children()
	if in.err != nil {
		return nil, fmt.Errorf("otel: %w", in.err)
	}
	return t, nil
}

// instruments makes instruments. err is the first error.
type instruments struct {
	meter metric.Meter
	err   error
}

// buckets are the upper bounds of the histograms, in seconds: 50 µs to 105 s, each twice the
// one before. Those of the conventions begin with 5 ms, and calls take microseconds.
var buckets = func() (bounds []float64) {
	for bound := 50e-6; len(bounds) < 22; bound *= 2 {
		bounds = append(bounds, bound)
	}
	return bounds
}()

func (in *instruments) duration(name, description string) metric.Float64Histogram {
	h, err := in.meter.Float64Histogram(name, metric.WithDescription(description),
		metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(buckets...))
	in.failed(err)
	return h
}

func (in *instruments) counter(name, unit, description string) metric.Int64Counter {
	c, err := in.meter.Int64Counter(name, metric.WithDescription(description),
		metric.WithUnit(unit))
	in.failed(err)
	return c
}

func (in *instruments) gauge(name, unit, description string) metric.Int64UpDownCounter {
	c, err := in.meter.Int64UpDownCounter(name, metric.WithDescription(description),
		metric.WithUnit(unit))
	in.failed(err)
	return c
}

func (in *instruments) failed(err error) {
	if in.err == nil {
		in.err = err
	}
}
