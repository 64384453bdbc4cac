// Package bench has benchmarks between two processes over real sockets, as in a
// program that uses the library.
//
//	go test -run '^$' -bench . ./bench
//
// Most of them also measure a floor: the same work without the library. Library
// and floor take turns, one block of operations each, and the benchmark reports
// the ratio of their times. A ratio is about the same on other machines; a time
// is not.
package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestMain(m *testing.M) {
	forkspawn.Register("wait", func(ctx context.Context, _ *forkspawn.Parent) error {
		<-ctx.Done()
		return nil
	})
	forkspawn.Register("echo", echo)
	forkspawn.Register("sink", sink)
	forkspawn.Register("many", many)
	forkspawn.Register("calls", serveCalls)
	forkspawn.Init()
	os.Exit(m.Run())
}

// echoArgs are the arguments of the entries echo, sink and many.
type echoArgs struct {
	Size  int    // of a message, in bytes
	Typed bool   // messages have type message; otherwise they are raw bytes
	Raw   string // "network address" of the floor's listener
	Many  int    // number of channels, and of floor connections, for entry many
}

// message is a typed message.
type message struct {
	ID   uint64          `cbor:"1,keyasint"`
	Body transport.Bytes `cbor:"2,keyasint"`
}

// echo echoes on the channel and on the floor, concurrently.
func echo(ctx context.Context, p *forkspawn.Parent) error {
	var args echoArgs
	if err := p.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	network, addr, _ := strings.Cut(args.Raw, " ")
	conn, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	go rawEcho(conn, args.Size)
	ch := p.Channel()
	defer context.AfterFunc(ctx, func() { ch.Abort() })()
	ctx = context.Background() // for a fair comparison: the floor has no context
	buf := make([]byte, args.Size)
	var msg message
	for {
		if args.Typed {
			err = ch.Recv(ctx, &msg)
			if err == nil {
				err = ch.Send(ctx, &msg)
			}
		} else {
			var n int
			n, err = ch.RecvBytes(ctx, buf)
			if err == nil {
				err = ch.SendBytes(ctx, buf[:n])
			}
		}
		if err != nil {
			return nil // the parent has closed the channel
		}
	}
}

// rawEcho echoes messages of a fixed size on the floor.
func rawEcho(conn net.Conn, size int) {
	buf := make([]byte, size)
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return // closed
		}
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

var sizes = []struct {
	name string
	n    int
}{{"32B", 32}, {"1KiB", 1 << 10}, {"64KiB", 64 << 10}, {"1MiB", 1 << 20}}

// BenchmarkRoundTrip measures one message to the other process and one back. The
// floor sends the same bytes over a plain net.Conn with Write and io.ReadFull,
// without framing or encoding. "x/raw" is the median of the ratios of two
// neighbouring blocks.
func BenchmarkRoundTrip(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		for _, kind := range []string{"bytes", "typed"} {
			for _, size := range sizes {
				b.Run(network+"/"+kind+"/"+size.name, func(b *testing.B) {
					roundTrip(b, network, kind == "typed", size.n)
				})
			}
		}
	}
}

// block is the number of round trips in one turn.
const block = 20

func roundTrip(b *testing.B, network string, typed bool, size int) {
	trip, floor := trips(b, network, typed, size)
	b.SetBytes(int64(2 * size))
	duel(b, "raw", block, trip, floor)
}

// trips returns functions that make n round trips, over a channel and over the
// floor.
func trips(t testing.TB, network string, typed bool, size int) (trips, floor func(n int) error) {
	ctx := context.Background()
	ch, raw := withEcho(t, network, typed, size)
	out, in := make([]byte, size), make([]byte, size)
	msg := message{ID: 1, Body: out[:max(0, size-8)]} // makes the frame about as large
	var reply message
	trip := func() error {
		if !typed {
			if err := ch.SendBytes(ctx, out); err != nil {
				return err
			}
			_, err := ch.RecvBytes(ctx, in)
			return err
		}
		if err := ch.Send(ctx, &msg); err != nil {
			return err
		}
		return ch.Recv(ctx, &reply)
	}
	rawTrip := func() error {
		if _, err := raw.Write(out); err != nil {
			return err
		}
		_, err := io.ReadFull(raw, in)
		return err
	}
	return times(trip), times(rawTrip)
}

// withEcho starts a child with entry echo. It returns its channel and a floor
// connection.
func withEcho(t testing.TB, network string, typed bool, size int) (*transport.Channel, net.Conn) {
	return withPeer(t, "echo", network, echoArgs{Size: size, Typed: typed})
}

// withPeer starts a child. It returns its channel and a floor connection.
func withPeer(t testing.TB, entry, network string, args echoArgs) (*transport.Channel, net.Conn) {
	t.Helper()
	s, err := forkspawn.New(forkspawn.Config{Listen: listen(network)})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	ln := rawListener(t, network)
	args.Raw = ln.Addr().Network() + " " + ln.Addr().String()
	child, err := s.Spawn(context.Background(), spawnspec.Spec{Entry: entry, Args: args})
	require.NoError(t, err)
	raw, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { raw.Close() })
	return child.Channel(), raw
}

// times returns a function that calls f n times.
func times(f func() error) func(n int) error {
	return func(n int) error {
		for range n {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}
}

// duel measures b.N operations of ours and of the floor, in turns of one block.
// name is the name of the floor in the results.
func duel(b *testing.B, name string, block int, ours, floor func(n int) error) {
	turn(b, ours, block)
	turn(b, floor, block)
	var theirs time.Duration
	var ratios, extra []float64
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += block {
		n := min(block, b.N-done)
		b.StartTimer()
		t := turn(b, ours, n)
		b.StopTimer()
		f := turn(b, floor, n)
		theirs += f
		ratios = append(ratios, float64(t)/float64(f))
		extra = append(extra, float64(t-f)/float64(n))
	}
	b.ReportMetric(median(ratios), "x/"+name)
	b.ReportMetric(median(extra), "extra-ns/op")
	b.ReportMetric(float64(theirs)/float64(b.N), name+"-ns/op")
}

// turn returns the time of n operations.
func turn(t testing.TB, f func(n int) error, n int) time.Duration {
	t.Helper()
	start := time.Now()
	require.NoError(t, f(n))
	return time.Since(start)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkSpawn measures a call of Spawn. Command spawnbench also measures its
// phases and a floor.
func BenchmarkSpawn(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		b.Run(network, func(b *testing.B) {
			s, err := forkspawn.New(forkspawn.Config{Listen: listen(network)})
			require.NoError(b, err)
			defer s.Close()
			ctx := context.Background()
			for b.Loop() {
				c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "wait"})
				require.NoError(b, err)
				b.StopTimer()
				_, err = c.Stop(ctx)
				require.NoError(b, err)
				b.StartTimer()
			}
		})
	}
}

func listen(network string) transport.Addr {
	if network == "tcp" {
		return transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}
	}
	return transport.Addr{}
}

// rawListener listens for floor connections from the child.
func rawListener(t testing.TB, network string) net.Listener {
	t.Helper()
	var ln net.Listener
	var err error
	if network == "tcp" {
		ln, err = net.Listen("tcp", "127.0.0.1:0")
	} else {
		dir, derr := os.MkdirTemp("", "bench-")
		require.NoError(t, derr)
		t.Cleanup(func() { os.RemoveAll(dir) })
		ln, err = net.Listen("unix", filepath.Join(dir, "s"))
	}
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// A benchmark is worth nothing if the child answers fast but wrongly.
func TestEcho_ReturnsMessages(t *testing.T) {
	for _, typed := range []bool{false, true} {
		t.Run(fmt.Sprintf("typed=%v", typed), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			s, err := forkspawn.New(forkspawn.Config{})
			require.NoError(t, err)
			defer s.Close()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer ln.Close()
			c, err := s.Spawn(ctx,
				spawnspec.Spec{Entry: "echo",
					Args: echoArgs{Size: 100, Typed: typed, Raw: "tcp " + ln.Addr().String()}})
			require.NoError(t, err)
			sent := message{ID: 7, Body: []byte("body")}
			if typed {
				require.NoError(t, c.Send(ctx, sent))
				var got message
				require.NoError(t, c.Recv(ctx, &got))
				require.Equal(t, sent, got)
				return
			}
			require.NoError(t, c.SendBytes(ctx, sent.Body))
			buf := make([]byte, 100)
			n, err := c.RecvBytes(ctx, buf)
			require.NoError(t, err)
			require.Equal(t, []byte(sent.Body), buf[:n])
		})
	}
}
