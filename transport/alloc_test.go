package transport_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

func TestAllocs_RawBytes(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, l := range sockets {
		for name, ctx := range map[string]context.Context{"Background": context.Background(),
			"a context used again": cancellable} {
			for _, size := range []int{0, 100, 8 << 10, 64 << 10} {
				t.Run(fmt.Sprint(l.name, ", ", name, ", ", size), func(t *testing.T) {
					a, b := l.channels(t)
					p, buf := make([]byte, size), make([]byte, size)
					got := testing.AllocsPerRun(500, func() {
						if err := a.SendBytes(ctx, p); err != nil {
							t.Fatal(err)
						}
						if _, err := b.RecvBytes(ctx, buf); err != nil {
							t.Fatal(err)
						}
					})
					assert.Zero(t, got)
				})
			}
		}
	}
}

func TestAllocs_SmallValues(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	type small struct {
		ID   int    `cbor:"id"`
		Text string `cbor:"text"`
	}
	a, b := sockets[0].channels(t)
	ctx := context.Background()
	in, out := &small{7, "some text"}, new(small)
	got := testing.AllocsPerRun(500, func() {
		if err := a.Send(ctx, in); err != nil {
			t.Fatal(err)
		}
		if err := b.Recv(ctx, out); err != nil {
			t.Fatal(err)
		}
	})
	require.Equal(t, in, out)
	t.Logf("%v allocations", got)
	assert.LessOrEqual(t, got, 2.0, "the text, and what the decoder needs")
}

func TestAllocs_Bytes(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	type chunk struct {
		Offset int64           `cbor:"offset"`
		Data   transport.Bytes `cbor:"data"`
	}
	a, b := sockets[0].channels(t)
	ctx := context.Background()
	in, out := &chunk{7, pattern(1, 1000)}, new(chunk)
	got := testing.AllocsPerRun(500, func() {
		if err := a.Send(ctx, in); err != nil {
			t.Fatal(err)
		}
		if err := b.Recv(ctx, out); err != nil {
			t.Fatal(err)
		}
	})
	require.Equal(t, in, out)
	assert.Zero(t, got)
}

func BenchmarkEcho(b *testing.B) {
	for _, l := range links() {
		for _, size := range []int{0, 1 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprint(l.name, "/", size), func(b *testing.B) {
				x, y := l.channels(b)
				go func() {
					buf := make([]byte, size)
					for {
						n, err := y.RecvBytes(context.Background(), buf)
						if err != nil || y.SendBytes(context.Background(), buf[:n]) != nil {
							return
						}
					}
				}()
				p, buf := make([]byte, size), make([]byte, size)
				b.SetBytes(int64(2 * size))
				b.ReportAllocs()
				for b.Loop() {
					if err := x.SendBytes(context.Background(), p); err != nil {
						b.Fatal(err)
					}
					if _, err := x.RecvBytes(context.Background(), buf); err != nil {
						b.Fatal(err)
					}
				}
				require.NoError(b, x.Close())
			})
		}
	}
}
