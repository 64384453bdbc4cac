//go:build unix

package libraries

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"math/big"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/xid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func identityRows() []row {
	return []row{
		valueRow(row{library: "crypto/rand, and the functions of math/rand and math/rand/v2",
			outcome: works, finding: "differ"}, func() string {
			return fmt.Sprint(rand.Uint64(), crand.Text())
		}),
		randRow(), bufferedRandRow(), maphashRow(),
		valueRow(row{library: "google/uuid: New", module: "github.com/google/uuid",
			outcome: works, finding: "differ"}, uuid.NewString),
		uuidPoolRow(), uuidClockRow(), ulidRow(),
		valueRow(row{library: "rs/xid", module: "github.com/rs/xid", outcome: equal,
			finding: "equal: it has the pid and the counter of the template; " +
				"nothing renews them, so use another package"},
			func() string {
				id := xid.New()
				return fmt.Sprint(id.Machine(), id.Pid(), id.Counter())
			}),
		prometheusRow(), otelIDRow(), otelBatchRow(), otelResourceRow(),
		profileRow(), traceRow(),
	}
}

// valueRow completes a row. Its children must make different values.
func valueRow(r row, value func() string) row {
	if r.warmUp == nil {
		r.warmUp = func() error {
			value()
			return nil
		}
	}
	r.use = func(context.Context) (string, error) { return value(), nil }
	return r
}

func randRow() row {
	var own *rand.Rand
	seed := func() error {
		own = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
		return nil
	}
	return valueRow(row{library: "math/rand, math/rand/v2: a Rand", outcome: equal, warmUp: seed,
		fix: fix{line: "'rand.New(...)' in 'AfterFork'", afterFork: seed},
	}, func() string { return strconv.FormatUint(own.Uint64(), 10) })
}

func bufferedRandRow() row {
	reader := bufio.NewReader(crand.Reader)
	return valueRow(row{library: "crypto/rand: behind a bufio.Reader", outcome: equal,
		fix: fix{line: "'reader.Reset(rand.Reader)' in 'AfterFork'", afterFork: func() error {
			reader.Reset(crand.Reader)
			return nil
		}},
	}, func() string {
		n, err := crand.Int(reader, big.NewInt(1<<62))
		return fmt.Sprint(n, err)
	})
}

func maphashRow() row {
	var seed maphash.Seed
	makeSeed := func() error {
		seed = maphash.MakeSeed()
		return nil
	}
	return valueRow(row{library: "hash/maphash: a Seed", outcome: equal, warmUp: makeSeed,
		fix: fix{line: "'maphash.MakeSeed()' in 'AfterFork'; not for a map in use",
			afterFork: makeSeed},
	}, func() string { return strconv.FormatUint(maphash.String(seed, "text"), 10) })
}

func uuidPoolRow() row {
	return valueRow(row{library: "google/uuid: New with EnableRandPool",
		module: "github.com/google/uuid", outcome: equal,
		warmUp: func() error {
			uuid.EnableRandPool()
			uuid.New() // fills the pool
			return nil
		},
		fix: fix{line: "'uuid.DisableRandPool(); uuid.EnableRandPool()' in 'AfterFork'",
			afterFork: func() error {
				uuid.DisableRandPool()
				uuid.EnableRandPool()
				return nil
			}},
	}, uuid.NewString)
}

func uuidClockRow() row {
	return valueRow(row{library: "google/uuid: NewUUID, NewV6",
		module: "github.com/google/uuid", outcome: equal,
		finding: "have the same clock sequence, so two can be equal",
		fix: fix{line: "'uuid.SetClockSequence(-1)' in 'AfterFork'", afterFork: func() error {
			uuid.SetClockSequence(-1)
			return nil
		}},
	}, func() string {
		id, err := uuid.NewUUID()
		if err != nil {
			return "" // works, and so the row fails
		}
		return strconv.Itoa(id.ClockSequence())
	})
}

func ulidRow() row {
	return valueRow(row{library: "oklog/ulid: Make", module: "github.com/oklog/ulid/v2",
		outcome: equal, finding: "equal in the same millisecond",
		fix: fix{line: "'ulid.New(ulid.Now(), rand.Reader)' of 'crypto/rand' instead"},
	}, func() string {
		if fixed() {
			id, err := ulid.New(ulid.Now(), crand.Reader)
			return fmt.Sprint(id.Entropy(), err)
		}
		return fmt.Sprint(ulid.Make().Entropy())
	})
}

// prometheusRow compares the start time of the process with that of a new collector.
func prometheusRow() row {
	collector := func() prometheus.Collector {
		return collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})
	}
	registry := prometheus.NewRegistry()
	started := func(g prometheus.Gatherer) (float64, error) {
		families, err := g.Gather()
		for _, f := range families {
			if f.GetName() == "process_start_time_seconds" {
				return f.GetMetric()[0].GetGauge().GetValue(), err
			}
		}
		return 0, errors.Join(err, errors.New("no start time"))
	}
	return row{
		library: "prometheus/client_golang: the process collector",
		module:  "github.com/prometheus/client_golang",
		outcome: "the values of the template",
		finding: "shows the template",
		warmUp: func() error {
			registry.MustRegister(collector(), collectors.NewGoCollector())
			_, err := started(registry)
			return err
		},
		fix: fix{line: "'Unregister' it, and 'Register' a new one, in 'AfterFork'",
			afterFork: func() error {
				registry.Unregister(collector())
				return registry.Register(collector())
			}},
		use: func(context.Context) (string, error) {
			fresh := prometheus.NewRegistry()
			fresh.MustRegister(collector())
			want, err := started(fresh)
			if err != nil {
				return "", err
			}
			got, err := started(registry)
			if err == nil && got != want {
				err = errors.New("the values of the template")
			}
			return "", err
		},
	}
}

const otelSDK = "go.opentelemetry.io/otel/sdk"

func otelIDRow() row {
	provider := sdktrace.NewTracerProvider()
	return valueRow(row{library: "OpenTelemetry SDK: ids of traces", module: otelSDK,
		outcome: works, finding: "differ",
	}, func() string {
		_, span := provider.Tracer("test").Start(context.Background(), "span")
		defer span.End()
		return span.SpanContext().TraceID().String()
	})
}

func otelBatchRow() row {
	exporter := tracetest.NewInMemoryExporter()
	var provider *sdktrace.TracerProvider
	span := func(name string) {
		_, span := provider.Tracer("test").Start(context.Background(), name)
		span.End()
	}
	warmUp := func() error {
		provider = sdktrace.NewTracerProvider(
			sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(time.Hour)))
		span("of the warm-up")
		return nil
	}
	return row{
		library: "OpenTelemetry SDK: a batch exporter", module: otelSDK,
		outcome: "of the warm-up, of the child",
		finding: "works; each child exports the spans that the warm-up has left in the queue",
		warmUp:  warmUp,
		fix: fix{line: "'provider.ForceFlush(ctx)' at the end of the warm-up",
			warmUp: func() error {
				err := errors.Join(warmUp(), provider.ForceFlush(context.Background()))
				exporter.Reset() // it only collects; a real one has sent the span
				return err
			}},
		use: func(ctx context.Context) (string, error) {
			span("of the child")
			if err := provider.ForceFlush(ctx); err != nil {
				return "", err
			}
			var names []string
			for _, s := range exporter.GetSpans() {
				names = append(names, s.Name)
			}
			if all := strings.Join(names, ", "); all != "of the child" {
				return "", errors.New(all)
			}
			return "", nil
		},
	}
}

func otelResourceRow() row {
	var res *resource.Resource
	detect := func() (err error) {
		res, err = resource.New(context.Background(), resource.WithProcessPID())
		return err
	}
	return row{
		library: "OpenTelemetry SDK: process.pid of a resource", module: otelSDK,
		outcome: "the pid of the template",
		finding: "of the template",
		warmUp:  detect,
		fix:     fix{line: "'resource.New' and the provider in 'AfterFork'", afterFork: detect},
		use: func(context.Context) (string, error) {
			pid, _ := res.Set().Value(attribute.Key("process.pid"))
			if pid.AsInt64() != int64(os.Getpid()) {
				return "", errors.New("the pid of the template")
			}
			return "", nil
		},
	}
}

func profileRow() row {
	start := func() error {
		file, err := os.Create(path("profile"))
		if err != nil {
			return err
		}
		return pprof.StartCPUProfile(file)
	}
	return row{
		library: "runtime/pprof: a CPU profile that runs",
		outcome: ".*: cannot fork without exec: a CPU profile is running; .*",
		finding: "refused: 'cannot fork without exec: a CPU profile is running'",
		warmUp:  start,
		fix: fix{line: "'pprof.StopCPUProfile()' in the warm-up", warmUp: func() error {
			err := start()
			pprof.StopCPUProfile()
			return err
		}},
		use: func(context.Context) (string, error) {
			if err := start(); err != nil {
				return "", err
			}
			pprof.StopCPUProfile()
			return "", nil
		},
	}
}

func traceRow() row {
	start := func() error {
		file, err := os.Create(path("trace"))
		if err != nil {
			return err
		}
		return trace.Start(file)
	}
	return row{
		library: "runtime/trace: a trace that runs",
		outcome: ".*: cannot fork without exec: an execution trace is running; .*",
		finding: "refused: 'cannot fork without exec: an execution trace is running'",
		warmUp:  start,
		fix: fix{line: "'trace.Stop()' in the warm-up", warmUp: func() error {
			err := start()
			trace.Stop()
			return err
		}},
		use: func(context.Context) (string, error) {
			if err := start(); err != nil {
				return "", err
			}
			trace.Stop()
			return "", nil
		},
	}
}
