package bench

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/transport"
)

// sink receives runs of messages and answers each run. On the channel a run
// begins with its length as a typed message, and sink answers with the length. On
// the floor all messages have the same size, a message of zeros ends the run, and
// sink answers with one byte.
func sink(ctx context.Context, p *forkspawn.Parent) error {
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
	go func() {
		buf := make([]byte, args.Size)
		for {
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			if buf[0] != 0 {
				continue
			}
			if _, err := conn.Write(buf[:1]); err != nil {
				return
			}
		}
	}()
	ch := p.Channel()
	defer context.AfterFunc(ctx, func() { ch.Abort() })()
	ctx = context.Background()
	buf := make([]byte, args.Size)
	var msg message
	for {
		var n int
		if ch.Recv(ctx, &n) != nil {
			return nil
		}
		for range n {
			if args.Typed {
				err = ch.Recv(ctx, &msg)
			} else {
				_, err = ch.RecvBytes(ctx, buf)
			}
			if err != nil {
				return err
			}
		}
		if ch.Send(ctx, n) != nil {
			return nil
		}
	}
}

// streams has the sizes of messages, and the number of messages in a block.
var streams = []struct {
	name  string
	n     int
	block int
}{{"64B", 64, 20_000}, {"1KiB", 1 << 10, 5_000}, {"64KiB", 64 << 10, 400}}

// BenchmarkStream measures the time per message of one-way messages, including
// the decoding in the other process. "batch" uses a Batch; "each" makes one call
// and one write for each message. The floor makes one Write on a plain net.Conn
// for each message.
func BenchmarkStream(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		for _, kind := range []string{"bytes", "typed"} {
			for _, how := range []string{"batch", "each"} {
				for _, s := range streams {
					b.Run(network+"/"+kind+"/"+how+"/"+s.name, func(b *testing.B) {
						run, floor := stream(b, network, kind == "typed", how == "batch", s.n)
						b.SetBytes(int64(s.n))
						duel(b, "raw", s.block, run, floor)
					})
				}
			}
		}
	}
}

// stream returns functions that send a run of n messages, over a channel and over
// the floor.
func stream(t testing.TB, network string, typed, batched bool,
	size int) (run, floor func(n int) error) {
	ctx := context.Background()
	ch, raw := withSink(t, network, typed, size)
	body := make([]byte, size)
	msg := message{ID: 1, Body: body[:size-8]}
	batch := ch.NewBatch()
	send, sendBytes := ch.Send, ch.SendBytes
	if batched {
		send, sendBytes = batch.Send, batch.SendBytes
	}
	return func(n int) error {
		if err := ch.Send(ctx, n); err != nil {
			return err
		}
		for range n {
			var err error
			if typed {
				err = send(ctx, &msg)
			} else {
				err = sendBytes(ctx, body)
			}
			if err != nil {
				return err
			}
		}
		if err := batch.Flush(ctx); err != nil {
			return err
		}
		return ch.Recv(ctx, &n)
	}, rawRun(raw, size)
}

// BenchmarkManySenders measures the time per message when 64 goroutines send typed
// messages of 64 bytes on one channel. A block is long, because at its start only
// some of the goroutines run.
func BenchmarkManySenders(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		b.Run(network, func(b *testing.B) {
			const size = 64
			run, floor := crowd(b, network, 64, size)
			b.SetBytes(size)
			duel(b, "raw", 100_000, run, floor)
		})
	}
}

// BenchmarkManySendersBusy is BenchmarkManySenders while other goroutines use all
// processors. Its floor is 64 goroutines that write.
func BenchmarkManySendersBusy(b *testing.B) {
	const senders, size = 64, 64
	ch, raw := withSink(b, "uds", true, size)
	var done atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer done.Store(true)
	for range 2 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !done.Load() {
			}
		})
	}
	duel(b, "raw", 2000, crowdRun(b, ch, senders, size), rawCrowdRun(b, raw, senders, size))
}

// crowd returns functions that send a run of n messages: from many goroutines on
// one channel, and from one goroutine on the floor.
func crowd(t testing.TB, network string, senders, size int) (run, floor func(n int) error) {
	ch, raw := withSink(t, network, true, size)
	return crowdRun(t, ch, senders, size), rawRun(raw, size)
}

func crowdRun(t testing.TB, ch *transport.Channel, senders, size int) func(n int) error {
	ctx := context.Background()
	return func(n int) error {
		if err := ch.Send(ctx, n); err != nil {
			return err
		}
		inParts(senders, n, func(part int) {
			msg := message{ID: 1, Body: make([]byte, size-8)}
			for range part {
				if err := ch.Send(ctx, &msg); err != nil {
					t.Error(err)
					return
				}
			}
		})
		return ch.Recv(ctx, &n)
	}
}

func rawCrowdRun(t testing.TB, conn net.Conn, senders, size int) func(n int) error {
	last := rawRun(conn, size)
	return func(n int) error {
		inParts(senders, n-1, func(part int) {
			body := make([]byte, size)
			body[0] = 1
			for range part {
				if _, err := conn.Write(body); err != nil {
					t.Error(err)
					return
				}
			}
		})
		return last(1)
	}
}

// inParts divides n into about equal parts and calls f with each part in a
// goroutine of its own.
func inParts(goroutines, n int, f func(part int)) {
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() { f((i+1)*n/goroutines - i*n/goroutines) })
	}
	wg.Wait()
}

// rawRun returns a function that sends a run of n messages on the floor.
func rawRun(conn net.Conn, size int) func(n int) error {
	body, last := make([]byte, size), make([]byte, size)
	body[0] = 1
	return func(n int) error {
		for i := range n {
			p := body
			if i == n-1 {
				p = last
			}
			if _, err := conn.Write(p); err != nil {
				return err
			}
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
}

// withSink starts a child with entry sink. It returns its channel and a floor
// connection.
func withSink(t testing.TB, network string, typed bool, size int) (*transport.Channel, net.Conn) {
	return withPeer(t, "sink", network, echoArgs{Size: size, Typed: typed})
}
