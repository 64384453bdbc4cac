// Package prometheus makes metrics of children and calls for Prometheus.
//
//	metrics, err := prometheus.New(registry)
//	spawner, err := forkspawn.New(forkspawn.Config{Trace: metrics.Children()})
//	conn := call.Config{Trace: metrics.Calls()}.New(child, nil)
//
// It is a module of its own, so that Spawnwire itself does not need the client library.
//
// # Metrics
//
// Times are in seconds.
//
//   - spawnwire_processes: running children, also during their start and stop
//   - spawnwire_spawn_duration_seconds: from the start of a child until it is ready; the
//     label spare says whether it was a spare
//   - spawnwire_spawn_failures_total: starts that have failed, by phase
//   - spawnwire_exits_total: ends of children, by result: success, failure, signal, or
//     unknown
//   - spawnwire_stops_total: calls of Child.Stop, by what has ended the child: ended (it had
//     before), asked, sigterm, sigkill, or error
//   - spawnwire_restarts_total: restarts by a Group
//   - spawnwire_releases_total: released children
//   - rpc_client_call_duration_seconds, rpc_server_call_duration_seconds: calls from their
//     beginning to their result, of this side and of the peer
//   - spawnwire_call_queue_duration_seconds: how long calls waited before they were sent, or
//     before their handler ran; the label side is client or server
//   - spawnwire_call_sent_bytes_total, spawnwire_call_received_bytes_total: the messages of
//     calls, by side and method
//   - spawnwire_calls: calls under way, by side
//
// The names, units and labels of rpc_ are those of OpenTelemetry's conventions for RPC
// metrics: rpc_system_name is "spawnwire", rpc_method the method, and error_type the code of
// a failed call. A call that succeeds has no error_type.
package prometheus

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/telemetry"
)

// Metrics are the metrics of any number of Spawners and connections. Its methods may be
// called concurrently.
type Metrics struct {
	processes                prometheus.Gauge
	spawn                    *prometheus.HistogramVec
	failures, exits, stops   *prometheus.CounterVec
	restarts, releases       prometheus.Counter
	client, server, queue    *prometheus.HistogramVec
	sentBytes, receivedBytes *prometheus.CounterVec
	underWay                 *prometheus.GaugeVec
}

// Buckets are the upper bounds of the histograms, in seconds: 50 µs to 105 s, each twice the
// one before.
var buckets = prometheus.ExponentialBuckets(50e-6, 2, 22)

// New makes metrics and registers them. If one of them is registered already, the error is a
// [prometheus.AlreadyRegisteredError], and nothing is registered.
func New(registry prometheus.Registerer) (*Metrics, error) {
	var all []prometheus.Collector
	m := &Metrics{}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		all = append(all, c)
		return c
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: buckets}, labels)
		all = append(all, h)
		return h
	}
	processes := prometheus.NewGauge(prometheus.GaugeOpts{Name: "spawnwire_processes",
		Help: "Children that run, also those that start or stop."})
	underWay := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "spawnwire_calls",
		Help: "Calls under way."}, []string{"side"})
	all = append(all, processes, underWay)
	m.processes, m.underWay = processes, underWay
	m.spawn = histogram("spawnwire_spawn_duration_seconds",
		"From the start of a child until it is ready.", "spare")
	m.failures = counter("spawnwire_spawn_failures_total", "Starts that have failed.", "phase")
	m.exits = counter("spawnwire_exits_total", "Ends of children.", "result")
	m.stops = counter("spawnwire_stops_total", "Stops, by what has ended the child.", "by")
	m.restarts = counter("spawnwire_restarts_total", "Restarts by a Group.").WithLabelValues()
	m.releases = counter("spawnwire_releases_total", "Children that were released.").
		WithLabelValues()
	rpc := []string{"rpc_system_name", "rpc_method", "error_type"}
	m.client = histogram("rpc_client_call_duration_seconds",
		"Calls of this side, until their result.", rpc...)
	m.server = histogram("rpc_server_call_duration_seconds",
		"Calls of the peer, until their result.", rpc...)
	m.queue = histogram("spawnwire_call_queue_duration_seconds",
		"Waits of calls before they were sent, or before their handler ran.", "side")
	m.sentBytes = counter("spawnwire_call_sent_bytes_total",
		"Bytes of the messages that calls have sent.", "side", "rpc_method")
	m.receivedBytes = counter("spawnwire_call_received_bytes_total",
		"Bytes of the messages that calls have received.", "side", "rpc_method")
	for i, c := range all {
		if err := registry.Register(c); err != nil {
			for _, c := range all[:i] {
				registry.Unregister(c)
			}
			return nil, fmt.Errorf("prometheus: register: %w", err)
		}
	}
	return m, nil
}

// Children returns the Trace for a forkspawn.Config. Each call returns a new one, so a
// program can set functions of its own that have no metric: Phase, Asked and Signalled.
func (m *Metrics) Children() *forkspawn.Trace {
	return &forkspawn.Trace{
		Started: func(forkspawn.ChildEvent) { m.processes.Inc() },
		Ready: func(_ forkspawn.ChildEvent, boot forkspawn.BootTimes) {
			m.spawn.WithLabelValues(fmt.Sprint(boot.Spare)).Observe(boot.Total.Seconds())
		},
		BootFailed: func(_ forkspawn.ChildEvent, err *forkspawn.BootError) {
			m.failures.WithLabelValues(string(err.Phase)).Inc()
		},
		Exited: func(_ forkspawn.ChildEvent, status forkspawn.ExitStatus) {
			m.processes.Dec()
			m.exits.WithLabelValues(telemetry.Result(status)).Inc()
		},
		Stopped: func(_ forkspawn.ChildEvent, stop forkspawn.StopResult, err error) {
			m.stops.WithLabelValues(telemetry.StoppedBy(stop, err)).Inc()
		},
		Released: func(forkspawn.ChildEvent) {
			m.processes.Dec()
			m.releases.Inc()
		},
		Restarting: func(forkspawn.ChildEvent, int, time.Duration, error) { m.restarts.Inc() },
	}
}

// Calls returns the Trace for a call.Config, of one or many connections.
func (m *Metrics) Calls() *call.Trace {
	return &call.Trace{
		Began: func(ctx context.Context, e call.Event) context.Context {
			m.underWay.WithLabelValues(side(e)).Inc()
			return ctx
		},
		Ended: func(_ context.Context, e call.Event) {
			side := side(e)
			m.underWay.WithLabelValues(side).Dec()
			durations := m.client
			if e.Incoming {
				durations = m.server
			}
			durations.WithLabelValues("spawnwire", e.Method, telemetry.ErrorType(e)).
				Observe((e.Queued + e.Ran).Seconds())
			m.queue.WithLabelValues(side).Observe(e.Queued.Seconds())
			m.sentBytes.WithLabelValues(side, e.Method).Add(float64(e.Sent))
			m.receivedBytes.WithLabelValues(side, e.Method).Add(float64(e.Received))
		},
	}
}

func side(e call.Event) string {
	if e.Incoming {
		return "server"
	}
	return "client"
}
