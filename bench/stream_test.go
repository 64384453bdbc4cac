package bench

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/transport"
)

// sink receives messages, decodes each, and answers with one byte when a run of them has ended. Each run
// begins with its length as a typed message; on the floor, where messages have one size, a run has ended when Size
// zero bytes come, which no other message has in front.
func sink(ctx context.Context, p *forkspawn.Parent) error {
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

// streams are the sizes of a stream's messages and how many make a block.
var streams = []struct {
	name  string
	n     int
	block int
}{{"64B", 64, 20_000}, {"1KiB", 1 << 10, 5_000}, {"64KiB", 64 << 10, 400}}

// BenchmarkStream measures one-way messages that the other process decodes, per message. "batch" sends them by
// a Batch, "each" by one call and one write each; the floor is one Write of a plain net.Conn for each.
func BenchmarkStream(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		for _, kind := range []string{"bytes", "typed"} {
			for _, how := range []string{"batch", "each"} {
				for _, s := range streams {
					b.Run(network+"/"+kind+"/"+how+"/"+s.name, func(b *testing.B) {
						ctx := context.Background()
						typed := kind == "typed"
						ch, raw := withSink(b, network, typed, s.n)
						body := make([]byte, s.n)
						body[0] = 1
						msg := message{ID: 1, Body: body[:s.n-8]}
						batch := ch.NewBatch()
						run := func(n int) error {
							if err := ch.Send(ctx, n); err != nil {
								return err
							}
							for range n {
								var err error
								switch {
								case typed && how == "batch":
									err = batch.Send(ctx, &msg)
								case typed:
									err = ch.Send(ctx, &msg)
								case how == "batch":
									err = batch.SendBytes(ctx, body)
								default:
									err = ch.SendBytes(ctx, body)
								}
								if err != nil {
									return err
								}
							}
							if err := batch.Flush(ctx); err != nil {
								return err
							}
							return ch.Recv(ctx, &n)
						}
						b.SetBytes(int64(s.n))
						duel(b, s.block, run, rawRun(raw, s.n))
					})
				}
			}
		}
	}
}

// BenchmarkManySenders measures 64 goroutines that send typed messages of 64 bytes on one channel, per message.
func BenchmarkManySenders(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		b.Run(network, func(b *testing.B) {
			const senders, size = 64, 64
			ctx := context.Background()
			ch, raw := withSink(b, network, true, size)
			run := func(n int) error {
				if err := ch.Send(ctx, n); err != nil {
					return err
				}
				var wg sync.WaitGroup
				for s := range senders {
					wg.Go(func() {
						msg := message{ID: 1, Body: make([]byte, size-8)}
						for i := s; i < n; i += senders {
							if err := ch.Send(ctx, &msg); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				return ch.Recv(ctx, &n)
			}
			b.SetBytes(size)
			duel(b, 20_000, run, rawRun(raw, size))
		})
	}
}

// rawRun is the floor of a stream.
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

// withSink starts the process that receives, and connects it for the floor too.
func withSink(b *testing.B, network string, typed bool, size int) (*transport.Channel, net.Conn) {
	return withPeer(b, "sink", network, echoArgs{Size: size, Typed: typed})
}
