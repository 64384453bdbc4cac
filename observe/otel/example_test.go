//go:build unix

package otel_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	global "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/observe/otel"
	"github.com/spawnwire/spawnwire/spawnspec"
)

var double = call.NewUnary[int, int]("double")

// startTracing makes this process's own provider, with an exporter to the collector of
// OTEL_EXPORTER_OTLP_ENDPOINT. Children inherit the variable.
func startTracing(ctx context.Context, service string) (*sdktrace.TracerProvider, error) {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	process, err := resource.New(ctx, resource.WithProcessPID(),
		resource.WithAttributes(semconv.ServiceName(service)))
	if err != nil {
		return nil, err
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithResource(process))
	global.SetTracerProvider(provider)
	return provider, nil
}

// stopTracing sends the spans that are left. The context of an entry has often ended then.
func stopTracing(provider *sdktrace.TracerProvider) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil {
		log.Print("spans are lost: ", err)
	}
}

// worker is an entry. It makes its provider itself, because in a forked child one from
// main would have the template's pid, and no connection.
func worker(ctx context.Context, parent *forkspawn.Parent) error {
	provider, err := startTracing(ctx, "worker")
	if err != nil {
		return err
	}
	defer stopTracing(provider)
	telemetry, err := otel.New(otel.Config{})
	if err != nil {
		return err
	}
	mux := call.NewMux()
	double.Handle(mux, func(_ context.Context, n int) (int, error) {
		if n%2 == 1 {
			return 0, errors.New("an odd number")
		}
		return 2 * n, nil
	})
	return call.Config{Trace: telemetry.Calls()}.Serve(ctx, parent, mux)
}

// A program registers its entries in main, before forkspawn.Init.
var workerEntry = spawntest.Func(worker)

// A parent and its child export their spans to one collector, which sees one trace.
func Example() {
	ctx := context.Background()
	collector := newCollector()
	defer collector.Close()
	os.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	defer os.Unsetenv("OTEL_EXPORTER_OTLP_ENDPOINT")

	provider, err := startTracing(ctx, "parent")
	if err != nil {
		log.Fatal(err)
	}
	telemetry, err := otel.New(otel.Config{})
	if err != nil {
		log.Fatal(err)
	}
	spawner, err := forkspawn.New(forkspawn.Config{Trace: telemetry.Children()})
	if err != nil {
		log.Fatal(err)
	}
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: workerEntry})
	if err != nil {
		log.Fatal(err)
	}
	conn := call.Config{Trace: telemetry.Calls()}.New(child, nil)
	_, err = double.Call(ctx, conn, 21)
	fmt.Println(err)
	conn.Close()
	spawner.Close() // stops the child, which sends its spans
	stopTracing(provider)

	for _, s := range collector.spans("double") {
		fmt.Println(s.service, s.Name, s.Kind, s.attributes["error.type"], s.Status.GetMessage())
	}
	// Output:
	// call: double: an odd number
	// parent double SPAN_KIND_CLIENT failed call: double: an odd number
	// worker double SPAN_KIND_SERVER failed an odd number
}
