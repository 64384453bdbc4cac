package bench

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// many opens args.Many channels and as many floor connections, and echoes on each.
func many(ctx context.Context, p *forkspawn.Parent) error {
	var args echoArgs
	if err := p.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	network, addr, _ := strings.Cut(args.Raw, " ")
	for i := range 2 * args.Many {
		conn, err := net.Dial(network, addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if i%2 == 1 {
			go rawEcho(conn, args.Size)
			continue
		}
		go func() {
			ch := transport.New(conn, transport.Config{})
			defer ch.Abort()
			var msg message
			for {
				if ch.Recv(ctx, &msg) != nil || ch.Send(ctx, &msg) != nil {
					return
				}
			}
		}()
	}
	<-ctx.Done()
	return nil
}

// withMany starts a child with entry many. It returns n channels and n floor
// connections.
func withMany(b *testing.B, n, size int) ([]*transport.Channel, []net.Conn) {
	s, err := forkspawn.New(forkspawn.Config{})
	require.NoError(b, err)
	b.Cleanup(func() { s.Close() })
	ln := rawListener(b, "uds")
	args := echoArgs{Raw: ln.Addr().Network() + " " + ln.Addr().String(), Size: size, Many: n}
	_, err = s.Spawn(context.Background(), spawnspec.Spec{Entry: "many", Args: args})
	require.NoError(b, err)
	channels, raws := make([]*transport.Channel, n), make([]net.Conn, n)
	for i := range n {
		conn, err := ln.Accept()
		require.NoError(b, err)
		channels[i] = transport.New(conn, transport.Config{})
		b.Cleanup(func() { channels[i].Abort() })
		raws[i], err = ln.Accept()
		require.NoError(b, err)
		b.Cleanup(func() { raws[i].Close() })
	}
	return channels, raws
}

// BenchmarkChannels measures typed round trips of 64 bytes that use many channels
// in turn. The floor uses as many plain connections.
func BenchmarkChannels(b *testing.B) {
	for _, test := range []struct {
		name string
		n    int
	}{{"1", 1}, {"10", 10}, {"100", 100}, {"1000", 1000}} {
		b.Run(test.name, func(b *testing.B) {
			channels, raws := withMany(b, test.n, 64)
			msg, reply := message{ID: 1, Body: make([]byte, 56)}, message{}
			buf := make([]byte, 64)
			var i, j int
			trip := func() error {
				i = (i + 1) % test.n
				if err := channels[i].Send(context.Background(), &msg); err != nil {
					return err
				}
				return channels[i].Recv(context.Background(), &reply)
			}
			rawTrip := func() error {
				j = (j + 1) % test.n
				if _, err := raws[j].Write(buf); err != nil {
					return err
				}
				_, err := io.ReadFull(raws[j], buf)
				return err
			}
			duel(b, "raw", 1000, times(trip), times(rawTrip))
		})
	}
}

// BenchmarkFairness uses 64 channels concurrently. It reports the number of round
// trips on the slowest channel, divided by the median.
func BenchmarkFairness(b *testing.B) {
	channels, _ := withMany(b, 64, 64)
	counts := make([]float64, len(channels))
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for i, ch := range channels {
		wg.Go(func() {
			msg, reply := message{ID: 1, Body: make([]byte, 56)}, message{}
			for left.Add(-1) >= 0 {
				if err := ch.Send(context.Background(), &msg); err != nil {
					b.Error(err)
					return
				}
				if err := ch.Recv(context.Background(), &reply); err != nil {
					b.Error(err)
					return
				}
				counts[i]++
			}
		})
	}
	wg.Wait()
	b.ReportMetric(slices.Min(counts)/max(1, median(counts)), "slowest/median")
}
