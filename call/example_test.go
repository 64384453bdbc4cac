package call_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The methods of the examples. A program shares them between parent and child.
var (
	upper = call.NewUnary[string, string]("text.upper")
	read  = call.NewUnary[string, string]("file.read")
	ticks = call.NewServerStream[int, int]("ticks")
	total = call.NewClientStream[float64, float64]("total")
	chat  = call.NewBidi[string, string]("chat")
	greet = call.NewUnary[string, string]("greet")
	sleep = call.NewUnary[struct{}, struct{}]("sleep")

	who = call.NewUnary[struct{}, string]("who") // of the parent
)

// errNobody has a name in both processes.
var errNobody = errors.New("nobody to greet")

func init() { call.RegisterError("example.nobody", errNobody) }

// serveExamples is the entry "examples" of the child.
func serveExamples(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux()
	upper.Handle(mux, func(_ context.Context, s string) (string, error) {
		return strings.ToUpper(s), nil
	})
	read.Handle(mux, func(_ context.Context, name string) (string, error) {
		data, err := os.ReadFile(name)
		return string(data), err
	})
	ticks.Handle(mux, func(_ context.Context, n int, send func(int) error) error {
		for i := range n {
			if err := send(i); err != nil {
				return err
			}
		}
		return nil
	})
	total.Handle(mux, func(
		_ context.Context, in iter.Seq2[float64, error],
	) (sum float64, err error) {
		for v, err := range in {
			if err != nil {
				return 0, err
			}
			sum += v
		}
		return sum, nil
	})
	chat.Handle(mux, func(_ context.Context, s *call.Stream[string, string]) error {
		for line, err := range s.All() {
			if err != nil {
				return err
			}
			if err := s.Send("you said " + line); err != nil {
				return err
			}
		}
		return nil
	})
	greet.Handle(mux, func(ctx context.Context, greeting string) (string, error) {
		name, err := who.Call(ctx, call.ConnOf(ctx), struct{}{})
		if err == nil && name == "" {
			err = fmt.Errorf("%w with %q", errNobody, greeting)
		}
		return greeting + ", " + name, err
	})
	sleep.Handle(mux, func(ctx context.Context, _ struct{}) (struct{}, error) {
		<-ctx.Done()
		return struct{}{}, ctx.Err()
	})
	return call.Serve(ctx, parent, mux)
}

func init() { forkspawn.Register("examples", serveExamples) }

// connect starts a child with the entry "examples".
func connect() (conn *call.Conn, stop func()) { return connectWith(call.Config{}) }

func connectWith(cfg call.Config) (conn *call.Conn, stop func()) {
	child, end := spawnExamples()
	conn = cfg.New(child, nil)
	return conn, func() {
		conn.Close()
		end()
	}
}

func spawnExamples() (child *forkspawn.Child, stop func()) {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	child, err = spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "examples"})
	if err != nil {
		log.Fatal(err)
	}
	return child, func() { spawner.Close() }
}

func ExampleUnary_Call() {
	conn, stop := connect()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	loud, err := upper.Call(ctx, conn, "hello")
	fmt.Println(loud, err)

	_, err = read.Call(ctx, conn, "/no/such/file")
	fmt.Println(errors.Is(err, fs.ErrNotExist), err)
	// Output:
	// HELLO <nil>
	// true call: file.read: open /no/such/file: no such file or directory
}

// The child's handler calls its caller back.
func ExampleConnOf() {
	child, stop := spawnExamples()
	defer stop()
	mux := call.NewMux()
	who.Handle(mux, func(context.Context, struct{}) (string, error) { return "Ada", nil })
	conn := call.New(child, mux)
	defer conn.Close()
	fmt.Println(greet.Call(context.Background(), conn, "Good morning"))
	// Output: Good morning, Ada <nil>
}

func ExampleRegisterError() {
	child, stop := spawnExamples()
	defer stop()
	mux := call.NewMux()
	who.Handle(mux, func(context.Context, struct{}) (string, error) { return "", nil })
	conn := call.New(child, mux)
	defer conn.Close()
	_, err := greet.Call(context.Background(), conn, "Good morning")
	fmt.Println(errors.Is(err, errNobody), err)
	// Output: true call: greet: nobody to greet with "Good morning"
}

// The child dies during a call.
func Example_death() {
	child, stop := spawnExamples()
	defer stop()
	conn := call.New(child, nil)
	defer conn.Close()
	time.AfterFunc(10*time.Millisecond, func() { child.Kill() })
	_, err := sleep.Call(context.Background(), conn, struct{}{})
	var exit *forkspawn.ExitError
	fmt.Println(errors.As(err, &exit), exit.Status)
	// Output: true signal: killed
}

func ExampleServerStream_Call() {
	conn, stop := connect()
	defer stop()
	for n, err := range ticks.Call(context.Background(), conn, 1_000_000) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(n)
		if n == 2 {
			break // cancels the call
		}
	}
	// Output:
	// 0
	// 1
	// 2
}

func ExampleClientStream_Call() {
	conn, stop := connect()
	defer stop()
	sum, err := total.Call(context.Background(), conn, slices.Values([]float64{1, 2, 3.5}))
	fmt.Println(sum, err)
	// Output: 6.5 <nil>
}

func ExampleBidi_Open() {
	conn, stop := connect()
	defer stop()
	s, err := chat.Open(context.Background(), conn)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	for _, line := range []string{"hello", "goodbye"} {
		if err := s.Send(line); err != nil {
			log.Fatal(err)
		}
	}
	s.CloseSend() // ends the handler's loop
	for reply, err := range s.All() {
		fmt.Println(reply, err)
	}
	// Output:
	// you said hello <nil>
	// you said goodbye <nil>
}

func ExampleMap() {
	var conns []*call.Conn
	for range 2 {
		conn, stop := connect()
		defer stop()
		conns = append(conns, conn)
	}
	words := slices.Values([]string{"one", "two", "three"})
	for r := range call.Map(context.Background(), conns, upper, words, call.MapConfig{}) {
		fmt.Println(r.Value, r.Err)
	}
	// Output:
	// ONE <nil>
	// TWO <nil>
	// THREE <nil>
}

func ExampleTrace() {
	cfg := call.Config{Trace: &call.Trace{
		Ended: func(ctx context.Context, e call.Event) {
			fmt.Println(e.Method, e.Sent, "bytes,", e.Err, call.MetadataOf(ctx)["traceparent"])
		},
	}}
	conn, stop := connectWith(cfg)
	defer stop()
	ctx := call.WithMetadata(context.Background(), call.Metadata{"traceparent": "00-4bf9-00f0-01"})
	upper.Call(ctx, conn, "hello")
	// Output: text.upper 6 bytes, <nil> 00-4bf9-00f0-01
}
