package bench

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The methods of entry calls.
var (
	callEcho  = call.NewUnary[message, message]("echo")
	callDown  = call.NewServerStream[callRun, message]("down")
	callCount = call.NewClientStream[message, int]("count")
)

// callRun asks for a stream of messages.
type callRun struct{ N, Size int }

// serveCalls serves calls, and an echo on the floor connection.
func serveCalls(ctx context.Context, p *forkspawn.Parent) error {
	var args echoArgs
	if err := p.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	network, addr, _ := strings.Cut(args.Raw, " ")
	raw, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	go rawEcho(raw, args.Size)
	mux := call.NewMux()
	callEcho.Handle(mux, func(_ context.Context, m message) (message, error) { return m, nil })
	callDown.Handle(mux, func(_ context.Context, r callRun, send func(message) error) error {
		m := message{ID: 1, Body: make([]byte, r.Size)}
		for range r.N {
			if err := send(m); err != nil {
				return err
			}
		}
		return nil
	})
	callCount.Handle(mux, func(
		_ context.Context, in iter.Seq2[message, error],
	) (n int, err error) {
		for _, err := range in {
			if err != nil {
				return 0, err
			}
			n++
		}
		return n, nil
	})
	return call.Serve(ctx, p, mux)
}

// withCalls starts a child with entry calls.
func withCalls(t testing.TB, size int) (conn *call.Conn, raw net.Conn) {
	t.Helper()
	s, err := forkspawn.New(forkspawn.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	ln := rawListener(t, "uds")
	args := echoArgs{Size: size, Raw: ln.Addr().Network() + " " + ln.Addr().String()}
	child, err := s.Spawn(context.Background(), spawnspec.Spec{Entry: "calls", Args: args})
	require.NoError(t, err)
	conn = call.New(child, nil)
	t.Cleanup(func() { conn.Close() })
	raw, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { raw.Close() })
	return conn, raw
}

// callTrips returns the unary calls of a message, and the same bytes over the floor's
// connection.
func callTrips(conn *call.Conn, raw net.Conn, size int) (ours, floor func() error) {
	m := message{ID: 1, Body: make([]byte, size-8)}
	out, in := make([]byte, size), make([]byte, size)
	return func() error {
			_, err := callEcho.Call(context.Background(), conn, m)
			return err
		}, func() error {
			if _, err := raw.Write(out); err != nil {
				return err
			}
			_, err := io.ReadFull(raw, in)
			return err
		}
}

// BenchmarkCall measures a unary call of one caller. "raw" is a plain net.Conn with
// Write and io.ReadFull. ReportAllocs counts this process only.
//
// bench/peers compares calls with other libraries. It also has calls beside large
// messages, streams beside an unread one, cancels, and the allocations of both
// processes.
func BenchmarkCall(b *testing.B) {
	for _, size := range sizes[:3] {
		b.Run(size.name, func(b *testing.B) {
			conn, raw := withCalls(b, size.n)
			ours, floor := callTrips(conn, raw, size.n)
			duel(b, "raw", block, times(ours), times(floor))
		})
	}
}

// BenchmarkCallers measures unary calls of 64 goroutines on one connection. The floor
// is one goroutine with round trips.
func BenchmarkCallers(b *testing.B) {
	const callers, size = 64, 64
	conn, raw := withCalls(b, size)
	ours, floor := callTrips(conn, raw, size)
	duel(b, "raw", callers*100, func(n int) error {
		var wg sync.WaitGroup
		errs := make([]error, callers)
		for i := range callers {
			wg.Go(func() { errs[i] = times(ours)((i+1)*n/callers - i*n/callers) })
		}
		wg.Wait()
		return errors.Join(errs...)
	}, times(floor))
}

// BenchmarkCallStream measures the time per message of a stream, to the child (up)
// and from it (down). The floor is BenchmarkStream's: one Write for each message.
func BenchmarkCallStream(b *testing.B) {
	ctx := context.Background()
	for _, s := range streams {
		for _, direction := range []string{"up", "down"} {
			b.Run(direction+"/"+s.name, func(b *testing.B) {
				conn, _ := withCalls(b, s.n)
				_, floor := stream(b, "uds", false, false, s.n)
				m := message{ID: 1, Body: make([]byte, s.n-8)}
				run := func(n int) error {
					_, err := callCount.Call(ctx, conn, func(yield func(message) bool) {
						for i := 0; i < n && yield(m); i++ {
						}
					})
					return err
				}
				if direction == "down" {
					run = func(n int) error {
						for _, err := range callDown.Call(ctx, conn, callRun{n, s.n - 8}) {
							if err != nil {
								return err
							}
						}
						return nil
					}
				}
				duel(b, "raw", s.block, run, floor)
			})
		}
	}
}

func TestCalls_AreRight(t *testing.T) {
	conn, _ := withCalls(t, 64)
	ctx := context.Background()
	want := message{ID: 7, Body: []byte("body")}
	got, err := callEcho.Call(ctx, conn, want)
	require.NoError(t, err)
	require.Equal(t, want, got)
	n := 0
	for m, err := range callDown.Call(ctx, conn, callRun{1000, 5}) {
		require.NoError(t, err)
		require.Len(t, m.Body, 5)
		n++
	}
	require.Equal(t, 1000, n)
}
