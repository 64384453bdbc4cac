//go:build unix

package otel_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/observe/otel"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

// The child serves relay and relays. For each call it starts a child of its own, which
// serves half and count.
var (
	relay  = call.NewUnary[int, int]("relay")
	relays = call.NewServerStream[int, int]("relays")
	half   = call.NewUnary[int, int]("half")
	count  = call.NewServerStream[int, int]("count")
)

var leaf = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	provider, err := startTracing(ctx, "leaf")
	if err != nil {
		return err
	}
	defer stopTracing(provider)
	telemetry, err := otel.New(otel.Config{})
	if err != nil {
		return err
	}
	mux := call.NewMux()
	half.Handle(mux, func(ctx context.Context, n int) (int, error) {
		tenant := baggage.FromContext(ctx).Member("tenant").Value()
		switch other := call.MetadataOf(ctx)["other"]; {
		case tenant != "blue" || other != "kept":
			return 0, fmt.Errorf("for tenant %q, with the metadata %q", tenant, other)
		case n%2 == 1:
			return 0, errors.New("an odd number")
		}
		return n / 2, nil
	})
	count.Handle(mux, func(_ context.Context, n int, send func(int) error) error {
		for i := range n {
			if err := send(i); err != nil {
				return err
			}
		}
		return nil
	})
	return call.Config{Trace: telemetry.Calls()}.Serve(ctx, parent, mux)
})

var middle = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	provider, err := startTracing(ctx, "middle")
	if err != nil {
		return err
	}
	defer stopTracing(provider)
	telemetry, err := otel.New(otel.Config{})
	if err != nil {
		return err
	}
	spawner, err := forkspawn.New(forkspawn.Config{Trace: telemetry.Children()})
	if err != nil {
		return err
	}
	defer spawner.Close()
	cfg := call.Config{Trace: telemetry.Calls()}
	withLeaf := func(ctx context.Context, f func(*call.Conn) error) error {
		child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: leaf})
		if err != nil {
			return err
		}
		conn := cfg.New(child, nil)
		err = errors.Join(f(conn), conn.Close())
		_, stopped := child.Stop(context.Background())
		return errors.Join(err, stopped)
	}
	mux := call.NewMux()
	relay.Handle(mux, func(ctx context.Context, n int) (result int, err error) {
		return result, withLeaf(ctx, func(conn *call.Conn) error {
			result, err = half.Call(ctx, conn, n)
			return err
		})
	})
	relays.Handle(mux, func(ctx context.Context, n int, send func(int) error) error {
		return withLeaf(ctx, func(conn *call.Conn) error {
			for i, err := range count.Call(ctx, conn, n) {
				if err != nil {
					return err
				}
				if err := send(i); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return cfg.Serve(ctx, parent, mux)
})

func TestTraces_GoThroughAChildToAGrandchild(t *testing.T) {
	for _, method := range []forkspawn.Method{forkspawn.MethodExec, forkspawn.MethodForkserver} {
		t.Run(string(method), func(t *testing.T) {
			if method == forkspawn.MethodForkserver {
				if err := forkspawn.CheckForkserver(t.Context()); err != nil {
					t.Skip(err)
				}
			}
			c := newCollector()
			defer c.Close()
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
			pid := callThroughTree(t, method)
			checkTrace(t, c, pid)
		})
	}
}

// callThroughTree makes calls within a span. When it returns, all processes have
// exported their spans. It returns the child's pid.
func callThroughTree(t *testing.T, method forkspawn.Method) (pid int) {
	ctx := testkit.Context(t)
	provider, err := startTracing(ctx, "root")
	require.NoError(t, err)
	defer stopTracing(provider)
	telemetry, err := otel.New(otel.Config{})
	require.NoError(t, err)
	s := spawntest.NewSpawner(t, forkspawn.Config{Method: method, Trace: telemetry.Children()})

	tenant, err := baggage.NewMember("tenant", "blue")
	require.NoError(t, err)
	bag, err := baggage.New(tenant)
	require.NoError(t, err)
	ctx = baggage.ContextWithBaggage(ctx, bag)
	ctx = call.WithMetadata(ctx, call.Metadata{"other": "kept"})
	ctx, top := provider.Tracer("test").Start(ctx, "top")
	defer top.End()

	child, err := s.Spawn(ctx, spawnspec.Spec{Entry: middle})
	require.NoError(t, err)
	conn := call.Config{Trace: telemetry.Calls()}.New(child, nil)
	n, err := relay.Call(ctx, conn, 8)
	require.NoError(t, err)
	assert.Equal(t, 4, n)
	_, err = relay.Call(ctx, conn, 5)
	require.Error(t, err)
	total := 0
	for i, err := range relays.Call(ctx, conn, 10) {
		require.NoError(t, err)
		total += i
	}
	assert.Equal(t, 45, total)
	require.NoError(t, conn.Close())
	result, err := child.Stop(ctx)
	require.NoError(t, err)
	assert.True(t, result.Status.Success(), "%v", result)
	return child.PID()
}

// forked is the provider of a forked child.
var forked *sdktrace.TracerProvider

func init() {
	forkspawn.AfterFork(func() (err error) {
		forked, err = startTracing(context.Background(), "forked")
		return err
	})
}

var serveForked = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	defer stopTracing(forked)
	telemetry, err := otel.New(otel.Config{})
	if err != nil {
		return err
	}
	mux := call.NewMux()
	double.Handle(mux, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	return call.Config{Trace: telemetry.Calls()}.Serve(ctx, parent, mux)
})

func TestTraces_OfAProviderFromAfterFork(t *testing.T) {
	if err := forkspawn.CheckForkserver(t.Context()); err != nil {
		t.Skip(err)
	}
	c := newCollector()
	defer c.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	child := spawntest.Spawn(t, serveForked, func(cfg *forkspawn.Config, _ *spawnspec.Spec) {
		cfg.Method = forkspawn.MethodForkserver
	})
	conn := call.New(child, nil)
	_, err := double.Call(testkit.Context(t), conn, 1)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = child.Stop(testkit.Context(t))
	require.NoError(t, err)
	calls := c.spans("double")
	require.Len(t, calls, 1)
	assert.Equal(t, "forked", calls[0].service)
	assert.Equal(t, fmt.Sprint(child.PID()), calls[0].pid)
	assert.Empty(t, calls[0].ParentSpanId, "the caller has no Trace")
}

func checkTrace(t *testing.T, c *collector, pid int) {
	assert.Equal(t, []string{
		"root: internal top",
		"  root: internal spawn",
		"  root: client relay",
		"    middle: server relay",
		"      middle: internal spawn",
		"      middle: client half",
		"        leaf: server half",
		"  root: client relay: failed: call: relay: call: half: an odd number",
		"    middle: server relay: failed: call: half: an odd number",
		"      middle: internal spawn",
		"      middle: client half: failed: call: half: an odd number",
		"        leaf: server half: failed: an odd number",
		"  root: client relays",
		"    middle: server relays",
		"      middle: internal spawn",
		"      middle: client count",
		"        leaf: server count",
	}, c.tree(nil, ""))

	pids := make(map[string]map[string]bool)
	for _, s := range c.spans("") {
		assert.Equal(t, c.spans("top")[0].TraceId, s.TraceId, s.Name)
		assert.LessOrEqual(t, s.StartTimeUnixNano, s.EndTimeUnixNano, s.Name)
		if pids[s.service] == nil {
			pids[s.service] = make(map[string]bool)
		}
		pids[s.service][s.pid] = true
		if s.Name != "top" && s.Kind != 1 {
			assert.Equal(t, "spawnwire", s.attributes["rpc.system.name"], s.Name)
			assert.Equal(t, s.Name, s.attributes["rpc.method"])
			assert.Contains(t, s.attributes, "spawnwire.call.queue.duration")
		}
	}
	assert.Equal(t, map[string]bool{fmt.Sprint(os.Getpid()): true}, pids["root"])
	assert.Equal(t, map[string]bool{fmt.Sprint(pid): true}, pids["middle"])
	assert.Len(t, pids["leaf"], 3)

	calls := c.spans("count")
	require.Len(t, calls, 2)
	client, server := calls[0], calls[1]
	assert.Equal(t, "1", client.attributes["spawnwire.call.sent"])
	assert.Equal(t, "10", client.attributes["spawnwire.call.received"])
	assert.Equal(t, "10", server.attributes["spawnwire.call.sent"])
	assert.NotContains(t, client.attributes, "error.type")

	starts := c.spans("spawn")
	assert.Equal(t, fmt.Sprint(pid), starts[0].attributes["spawnwire.child.pid"])
	assert.Equal(t, middle, starts[0].attributes["spawnwire.child.name"])
	launches := c.spans("spawn launch")
	require.Len(t, launches, 4)
	assert.Equal(t, starts[0].SpanId, launches[0].ParentSpanId)
	assert.LessOrEqual(t, launches[0].EndTimeUnixNano, starts[0].EndTimeUnixNano)
}
