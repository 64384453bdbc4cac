// Package bench measures the library from outside, as a program that uses it would: two processes, real
// sockets. Every benchmark that has a floor takes turns with it, block by block, and prints the ratio:
// that travels between machines, times do not.
//
//	go test -bench . ./bench
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
	forkspawn.Init()
	os.Exit(m.Run())
}

// echoArgs tell the other process what comes.
type echoArgs struct {
	Size  int    // of a message, in bytes
	Typed bool   // messages are of type message, else raw bytes
	Raw   string // "network address" of the floor, where Size bytes are echoed with nothing around them
	Many  int    // how many channels and floors to open there, in turns
}

// message is what typed messages carry.
type message struct {
	ID   uint64          `cbor:"1,keyasint"`
	Body transport.Bytes `cbor:"2,keyasint"`
}

// echo serves the channel and the floor side by side.
func echo(ctx context.Context, p *forkspawn.Parent) error {
	var args echoArgs
	if err := p.Spec.DecodeArgs(&args); err != nil {
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
	ctx = context.Background() // as the floor has none
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
			return nil // the parent is done
		}
	}
}

// rawEcho is the floor of an echo.
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

// BenchmarkRoundTrip measures one message there and one back, between two processes. "x/raw" is the ratio
// to the same bytes over a plain net.Conn with Write and io.ReadFull: no framing, no codec. It is the
// median over blocks of the ratio of neighbours.
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

// block is how many round trips are made before the other one's turn comes.
const block = 20

func roundTrip(b *testing.B, network string, typed bool, size int) {
	trip, floor := trips(b, network, typed, size)
	b.SetBytes(int64(2 * size))
	duel(b, "raw", block, trip, floor)
}

// trips returns round trips over a channel, and over the floor.
func trips(t testing.TB, network string, typed bool, size int) (trips, floor func(n int) error) {
	ctx := context.Background()
	ch, raw := withEcho(t, network, typed, size)
	out, in := make([]byte, size), make([]byte, size)
	msg := message{ID: 1, Body: out[:max(0, size-8)]} // so that the frame is about as large
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

// withEcho starts the process that echoes, and connects it for the floor too.
func withEcho(t testing.TB, network string, typed bool, size int) (*transport.Channel, net.Conn) {
	return withPeer(t, "echo", network, echoArgs{Size: size, Typed: typed})
}

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

// times makes of one operation a function that does n of them.
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

// duel measures b.N operations of ours and as many of the floor, in turns of a block each. Both do as many
// operations as they are asked for. name is the floor's.
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

// turn is how long n operations take.
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

// BenchmarkSpawn measures the call of Spawn, until the child is ready. Command spawnbench shows where the
// time goes, and the floor beside it.
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

// rawListener is where the other process connects for the floor.
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

// The benchmarks' own processes echo what they should: a fast wrong answer is no figure.
func TestEchoGivesBackWhatItGot(t *testing.T) {
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
			c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo", Args: echoArgs{Size: 100, Typed: typed, Raw: "tcp " + ln.Addr().String()}})
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
