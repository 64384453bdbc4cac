package otel

import (
	"context"
	"maps"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/telemetry"
)

type callMetrics struct {
	client, server, queue metric.Float64Histogram
	sent, received        metric.Int64Counter
	underWay              metric.Int64UpDownCounter
}

func (in *instruments) calls() callMetrics {
	return callMetrics{
		client: in.duration("rpc.client.call.duration", "Calls of this side, until their result."),
		server: in.duration("rpc.server.call.duration", "Calls of the peer, until their result."),
		queue: in.duration("spawnwire.call.queue.duration",
			"Waits of calls before they were sent, or before their handler ran."),
		sent: in.counter("spawnwire.call.sent", "By",
			"Bytes of the messages that calls have sent."),
		received: in.counter("spawnwire.call.received", "By",
			"Bytes of the messages that calls have received."),
		underWay: in.gauge("spawnwire.calls", "{call}", "Calls under way."),
	}
}

// Calls returns the Trace for a call.Config, of one or many connections. The span of a call
// is the parent of the spans that its handler makes with its context.
//
// The context of a call goes to the other process as metadata, under the names of the
// propagator's fields. Other metadata is kept. If all of it exceeds the limit of
// call.WithMetadata, the baggage is left out, and if that is not enough, the context.
func (t *Telemetry) Calls() *call.Trace {
	return &call.Trace{Began: t.callBegan, Ended: t.callEnded}
}

var system = semconv.RPCSystemNameKey.String("spawnwire")

var sides = map[bool]attribute.KeyValue{
	false: attribute.String("spawnwire.side", "client"),
	true:  attribute.String("spawnwire.side", "server"),
}

func (t *Telemetry) callBegan(ctx context.Context, e call.Event) context.Context {
	kind := trace.SpanKindClient
	if e.Incoming {
		kind = trace.SpanKindServer
		ctx = t.propagator.Extract(ctx, propagation.MapCarrier(call.MetadataOf(ctx)))
	}
	ctx, _ = t.tracer.Start(ctx, e.Method, trace.WithSpanKind(kind),
		trace.WithTimestamp(time.Now().Add(-e.Queued)),
		trace.WithAttributes(system, semconv.RPCMethod(e.Method)))
	t.calls.underWay.Add(ctx, 1, metric.WithAttributes(sides[e.Incoming]))
	if e.Incoming {
		return ctx
	}
	return t.inject(ctx)
}

// inject returns a context with the span in its metadata.
func (t *Telemetry) inject(ctx context.Context) context.Context {
	for _, from := range []context.Context{ctx, baggage.ContextWithoutBaggage(ctx)} {
		m := make(call.Metadata)
		maps.Copy(m, call.MetadataOf(ctx))
		for _, field := range t.fields { // of the call that this handler serves
			delete(m, field)
		}
		t.propagator.Inject(from, propagation.MapCarrier(m))
		if fits(m) {
			return call.WithMetadata(ctx, m)
		}
	}
	return ctx
}

// fits reports whether a call can have the metadata. A text has a head of 3 bytes at most.
func fits(m call.Metadata) bool {
	size := 3
	for key, value := range m {
		size += 3 + len(key) + 3 + len(value)
	}
	return len(m) <= 32 && size <= 4<<10
}

func (t *Telemetry) callEnded(ctx context.Context, e call.Event) {
	attributes := []attribute.KeyValue{system, semconv.RPCMethod(e.Method)}
	span := trace.SpanFromContext(ctx)
	if e.Err != nil {
		kind := semconv.ErrorTypeKey.String(telemetry.ErrorType(e))
		attributes = append(attributes, kind)
		span.SetAttributes(kind)
		span.SetStatus(codes.Error, e.Err.Error())
	}
	span.SetAttributes(
		attribute.Float64("spawnwire.call.queue.duration", e.Queued.Seconds()),
		attribute.Int64("spawnwire.call.sent", e.Sent),
		attribute.Int64("spawnwire.call.received", e.Received))
	span.End()

	side := sides[e.Incoming]
	bySide := metric.WithAttributes(side)
	byMethod := metric.WithAttributes(side, semconv.RPCMethod(e.Method))
	durations := t.calls.client
	if e.Incoming {
		durations = t.calls.server
	}
	durations.Record(ctx, (e.Queued + e.Ran).Seconds(), metric.WithAttributes(attributes...))
	t.calls.underWay.Add(ctx, -1, bySide)
	t.calls.queue.Record(ctx, e.Queued.Seconds(), bySide)
	t.calls.sent.Add(ctx, e.Sent, byMethod)
	t.calls.received.Add(ctx, e.Received, byMethod)
}
