//go:build unix

package otel_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	global "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/semconv/v1.43.0/rpcconv"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/observe/otel"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// recording returns a Telemetry whose spans and metrics stay in memory.
func recording(t *testing.T) (*otel.Telemetry, *tracetest.SpanRecorder, *sdkmetric.ManualReader) {
	t.Helper()
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	telemetry, err := otel.New(otel.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	})
	require.NoError(t, err)
	return telemetry, spans, reader
}

// doubles serves double without telemetry of its own.
var doubles = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux()
	double.Handle(mux, func(_ context.Context, n int) (int, error) {
		if n%2 == 1 {
			return 0, errors.New("an odd number")
		}
		return 2 * n, nil
	})
	return call.Serve(ctx, parent, mux)
})

var fails = spawntest.Func(func(context.Context, *forkspawn.Parent) error {
	return errors.New("the disk is full")
})

// collect returns the metrics by their names.
func collect(t *testing.T, reader sdkmetric.Reader) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	metrics := make(map[string]metricdata.Metrics)
	for _, scope := range all.ScopeMetrics {
		assert.Equal(t, "github.com/spawnwire/spawnwire/observe/otel", scope.Scope.Name)
		for _, m := range scope.Metrics {
			metrics[m.Name] = m
		}
	}
	return metrics
}

// points returns the sums, or the counts of histograms, by their attributes.
func points(t *testing.T, m metricdata.Metrics) map[string]int64 {
	t.Helper()
	values := make(map[string]int64)
	key := func(set attribute.Set) string {
		return set.Encoded(attribute.DefaultEncoder())
	}
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			values[key(p.Attributes)] = p.Value
		}
	case metricdata.Histogram[float64]:
		assert.Equal(t, "s", m.Unit)
		for _, p := range data.DataPoints {
			assert.Equal(t, 50e-6, p.Bounds[0])
			assert.Len(t, p.Bounds, 22)
			values[key(p.Attributes)] = int64(p.Count)
		}
	default:
		t.Errorf("%q is a %T", m.Name, m.Data)
	}
	return values
}

func TestMetrics_OfChildrenAndCalls(t *testing.T) {
	telemetry, spans, reader := recording(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{Trace: telemetry.Children()})
	ctx := testkit.Context(t)
	child, err := s.Spawn(ctx, spawnspec.Spec{Entry: doubles})
	require.NoError(t, err)
	_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "no such entry"})
	require.Error(t, err)
	conn := call.Config{Trace: telemetry.Calls()}.New(child, nil)
	_, err = double.Call(ctx, conn, 4)
	require.NoError(t, err)
	_, err = double.Call(ctx, conn, 5)
	require.Error(t, err)
	assert.Equal(t, map[string]int64{"": 1}, points(t, collect(t, reader)["spawnwire.processes"]))
	require.NoError(t, conn.Close())
	_, err = child.Stop(ctx)
	require.NoError(t, err)

	metrics := collect(t, reader)
	for name, want := range map[string]map[string]int64{
		rpcconv.ClientCallDuration{}.Name(): {
			"rpc.method=double,rpc.system.name=spawnwire":                   1,
			"error.type=failed,rpc.method=double,rpc.system.name=spawnwire": 1,
		},
		"spawnwire.call.queue.duration": {"spawnwire.side=client": 2},
		"spawnwire.call.sent":           {"rpc.method=double,spawnwire.side=client": 2},
		"spawnwire.call.received":       {"rpc.method=double,spawnwire.side=client": 1},
		"spawnwire.calls":               {"spawnwire.side=client": 0},
		"spawnwire.processes":           {"": 0},
		"spawnwire.spawn.duration":      {"spawnwire.spare=false": 1},
		"spawnwire.spawn.failures":      {"spawnwire.phase=spec": 1},
		"spawnwire.exits": {
			"spawnwire.result=success": 1, "spawnwire.result=failure": 1},
	} {
		assert.Equal(t, want, points(t, metrics[name]), name)
	}
	assert.Len(t, points(t, metrics["spawnwire.stops"]), 1)
	assert.Equal(t, "By", metrics["spawnwire.call.sent"].Unit)

	// The SDK makes exemplars, because the metrics are recorded with the spans.
	var calls, exemplars []string
	for _, s := range named(spans, "double") {
		calls = append(calls, s.SpanContext().SpanID().String())
	}
	durations := metrics["rpc.client.call.duration"].Data.(metricdata.Histogram[float64])
	for _, p := range durations.DataPoints {
		for _, e := range p.Exemplars {
			exemplars = append(exemplars, hex.EncodeToString(e.SpanID))
		}
	}
	assert.ElementsMatch(t, calls, exemplars)
}

// named returns the ended spans with a name.
func named(r *tracetest.SpanRecorder, name string) (found []sdktrace.ReadOnlySpan) {
	for _, s := range r.Ended() {
		if s.Name() == name {
			found = append(found, s)
		}
	}
	return found
}

func TestSpans_OfStartsThatFail(t *testing.T) {
	telemetry, spans, _ := recording(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{Trace: telemetry.Children()})
	ctx := testkit.Context(t)
	_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "no such entry"})
	require.Error(t, err)
	starts := named(spans, "spawn")
	require.Len(t, starts, 1)
	assert.Equal(t, codes.Error, starts[0].Status().Code)
	assert.Equal(t, err.Error(), starts[0].Status().Description)
	assert.Contains(t, starts[0].Attributes(), attribute.String("error.type", "spec"))
	steps := named(spans, "spawn spec")
	require.Len(t, steps, 1)
	assert.Equal(t, codes.Error, steps[0].Status().Code)
	assert.Equal(t, starts[0].SpanContext().SpanID(), steps[0].Parent().SpanID())
	steps = named(spans, "spawn start")
	require.Len(t, steps, 1)
	assert.Equal(t, codes.Unset, steps[0].Status().Code)

	_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "x"},
		forkspawn.WithCommand(forkspawn.Command{Path: "/no/such/program"}))
	require.Error(t, err)
	starts = named(spans, "spawn")
	require.Len(t, starts, 2)
	assert.Contains(t, starts[1].Attributes(), attribute.String("error.type", "start"))
}

func TestSpans_OfRestarts(t *testing.T) {
	telemetry, spans, reader := recording(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{Trace: telemetry.Children()})
	g, err := s.NewGroup(testkit.Context(t), forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure, MaxRestarts: 2, MinPause: time.Millisecond})
	require.NoError(t, err)
	require.NoError(t, g.Go(spawnspec.Spec{Name: "writer", Entry: fails}, nil))
	require.Error(t, g.Wait())
	restarts := named(spans, "restart")
	require.Len(t, restarts, 2)
	assert.Contains(t, restarts[0].Status().Description, "the disk is full")
	assert.Contains(t, restarts[0].Attributes(),
		attribute.String("spawnwire.child.name", "writer"))
	assert.Len(t, named(spans, "spawn"), 3)
	metrics := collect(t, reader)
	assert.Equal(t, map[string]int64{"": 2}, points(t, metrics["spawnwire.restarts"]))
	assert.Equal(t, map[string]int64{"spawnwire.result=failure": 3},
		points(t, metrics["spawnwire.exits"]))
}

// mirror returns the metadata of a call to a handler that has the baggage of its context
// under the key "seen".
func mirror(ctx context.Context, t *testing.T, telemetry *otel.Telemetry) call.Metadata {
	t.Helper()
	method := call.NewUnary[struct{}, call.Metadata]("mirror")
	mux := call.NewMux()
	method.Handle(mux, func(ctx context.Context, _ struct{}) (call.Metadata, error) {
		m := call.Metadata{"seen": baggage.FromContext(ctx).String()}
		maps.Copy(m, call.MetadataOf(ctx))
		return m, nil
	})
	cfg := call.Config{Trace: telemetry.Calls()}
	x, y := testkit.Unix(t)
	a := cfg.New(call.Over(transport.New(x, transport.Config{})), nil)
	b := cfg.New(call.Over(transport.New(y, transport.Config{})), mux)
	defer func() {
		assert.NoError(t, a.Close())
		assert.NoError(t, b.Close())
	}()
	m, err := method.Call(ctx, a, struct{}{})
	require.NoError(t, err)
	return m
}

// withBaggage returns a context with a member of n bytes.
func withBaggage(ctx context.Context, t *testing.T, n int) context.Context {
	t.Helper()
	member, err := baggage.NewMember("tenant", strings.Repeat("x", n))
	require.NoError(t, err)
	bag, err := baggage.New(member)
	require.NoError(t, err)
	return baggage.ContextWithBaggage(ctx, bag)
}

// A call never fails because of what is added to it.
func TestCalls_KeepWithinTheLimitsOfMetadata(t *testing.T) {
	telemetry, spans, reader := recording(t)
	ctx := call.WithMetadata(testkit.Context(t),
		call.Metadata{"other": "kept", "traceparent": "old", "baggage": "old=1"})
	m := mirror(withBaggage(ctx, t, 3000), t, telemetry)
	assert.Equal(t, "kept", m["other"])
	assert.Len(t, m["seen"], len("tenant=")+3000)
	trace := named(spans, "mirror")[0].SpanContext().TraceID().String()
	assert.Contains(t, m["traceparent"], trace)

	m = mirror(withBaggage(ctx, t, 4000), t, telemetry)
	assert.Equal(t, "kept", m["other"])
	assert.Empty(t, m["baggage"], "it was left out")
	assert.NotEqual(t, "old", m["traceparent"])

	full := make(call.Metadata)
	for i := range 32 {
		full[fmt.Sprint(i)] = "x"
	}
	m = mirror(call.WithMetadata(ctx, full), t, telemetry)
	assert.NotContains(t, m, "traceparent")
	assert.Len(t, m, 33)

	server := collect(t, reader)[rpcconv.ServerCallDuration{}.Name()]
	assert.Equal(t, map[string]int64{"rpc.method=mirror,rpc.system.name=spawnwire": 3},
		points(t, server))
}

func TestNew_TakesTheGlobalPropagatorIfOneIsSet(t *testing.T) {
	ctx := withBaggage(testkit.Context(t), t, 10)
	telemetry, _, _ := recording(t)
	m := mirror(ctx, t, telemetry)
	assert.NotEmpty(t, m["baggage"])
	assert.NotEmpty(t, m["traceparent"])

	global.SetTextMapPropagator(propagation.TraceContext{})
	defer global.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator())
	telemetry, _, _ = recording(t)
	m = mirror(ctx, t, telemetry)
	assert.Empty(t, m["baggage"])
	assert.NotEmpty(t, m["traceparent"])
}

// A handler's own calls carry its span, also if no spans are recorded in its process.
func TestCalls_GoThroughAProcessWithoutAProvider(t *testing.T) {
	telemetry, err := otel.New(otel.Config{
		TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: noop.NewMeterProvider()})
	require.NoError(t, err)
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	m := mirror(trace.ContextWithSpanContext(testkit.Context(t), parent), t, telemetry)
	assert.Equal(t, "00-01000000000000000000000000000000-0200000000000000-01", m["traceparent"])
}

// refusing is a MeterProvider without histograms.
type refusing struct{ noop.MeterProvider }

func (refusing) Meter(string, ...metric.MeterOption) metric.Meter { return refusingMeter{} }

type refusingMeter struct{ noop.Meter }

var errFull = errors.New("too many instruments")

func (refusingMeter) Float64Histogram(
	string, ...metric.Float64HistogramOption,
) (metric.Float64Histogram, error) {
	return nil, errFull
}

func TestNew_ReturnsTheErrorOfTheMeterProvider(t *testing.T) {
	_, err := otel.New(otel.Config{MeterProvider: refusing{}})
	assert.ErrorIs(t, err, errFull)
}
