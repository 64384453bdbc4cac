//go:build unix

package prometheus_test

import (
	"context"
	"errors"
	"log"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/observe/prometheus"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

var double = call.NewUnary[int, int]("double")

// doubles serves double, and refuses odd numbers.
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

// page returns the page of the registry.
func page(registry *client.Registry) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).
		ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestMetrics_OfChildrenAndCalls(t *testing.T) {
	registry := client.NewRegistry()
	metrics, err := prometheus.New(registry)
	require.NoError(t, err)
	s := spawntest.NewSpawner(t, forkspawn.Config{Trace: metrics.Children()})
	child, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: doubles})
	require.NoError(t, err)
	_, err = s.Spawn(t.Context(), spawnspec.Spec{Entry: "no such entry"})
	require.Error(t, err)
	conn := call.Config{Trace: metrics.Calls()}.New(child, nil)
	n, err := double.Call(t.Context(), conn, 4)
	require.NoError(t, err)
	require.Equal(t, 8, n)
	_, err = double.Call(t.Context(), conn, 5)
	require.Error(t, err)
	assert.Contains(t, page(registry), "\nspawnwire_processes 1\n")
	require.NoError(t, conn.Close())
	_, err = child.Stop(t.Context())
	require.NoError(t, err)

	text := page(registry)
	for _, line := range []string{
		`spawnwire_processes 0`,
		`spawnwire_spawn_duration_seconds_count{spare="false"} 1`,
		`spawnwire_spawn_failures_total{phase="spec"} 1`,
		`spawnwire_exits_total{result="success"} 1`,
		`spawnwire_exits_total{result="failure"} 1`,
		`spawnwire_restarts_total 0`,
		`spawnwire_calls{side="client"} 0`,
		`rpc_client_call_duration_seconds_count{error_type="",rpc_method="double",` +
			`rpc_system_name="spawnwire"} 1`,
		`rpc_client_call_duration_seconds_count{error_type="failed",rpc_method="double",` +
			`rpc_system_name="spawnwire"} 1`,
		`spawnwire_call_queue_duration_seconds_count{side="client"} 2`,
		`spawnwire_call_sent_bytes_total{rpc_method="double",side="client"} 2`,
		`spawnwire_call_received_bytes_total{rpc_method="double",side="client"} 1`,
	} {
		assert.Contains(t, text, "\n"+line+"\n")
	}
	assert.Contains(t, text, "spawnwire_stops_total{by=")
	checkWithPromtool(t, text)
}

// checkWithPromtool lets promtool(1) of Prometheus check the names and the form.
func checkWithPromtool(t *testing.T, text string) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is missing; install prometheus")
		return
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
	assert.Empty(t, string(out))
}

func TestNew_RegistersAllOrNothing(t *testing.T) {
	registry := client.NewRegistry()
	_, err := prometheus.New(registry)
	require.NoError(t, err)
	before := page(registry)
	_, err = prometheus.New(registry)
	var already client.AlreadyRegisteredError
	require.ErrorAs(t, err, &already)
	assert.Equal(t, before, page(registry))

	registry = client.NewRegistry()
	last := client.NewCounterVec(client.CounterOpts{Name: "spawnwire_call_received_bytes_total",
		Help: "Bytes of the messages that calls have received."}, []string{"side", "rpc_method"})
	require.NoError(t, registry.Register(last))
	_, err = prometheus.New(registry)
	require.Error(t, err)
	registry.Unregister(last)
	_, err = prometheus.New(registry)
	assert.NoError(t, err, "nothing was left registered")
}

// A program has the metrics of its children and calls on one page.
func Example() {
	registry := client.NewRegistry()
	metrics, err := prometheus.New(registry)
	if err != nil {
		log.Fatal(err)
	}
	spawner, err := forkspawn.New(forkspawn.Config{Trace: metrics.Children()})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	// call.Config{Trace: metrics.Calls()}.New(child, nil)
	// http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}
