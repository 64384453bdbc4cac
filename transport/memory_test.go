package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestBorrowed_IsValidUntilTheNextReceive(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			rng := rand.New(rand.NewPCG(1, 1))
			var all []int
			for range 10 {
				all = append(all, sizes[:len(sizes)-1]...)
			}
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			sent := testkit.Background(t, func() error {
				batch := a.NewBatch()
				for i, size := range all {
					if err := batch.SendBytes(testkit.Context(t), pattern(i, size)); err != nil {
						return err
					}
				}
				return batch.Flush(testkit.Context(t))
			})
			for i, size := range all {
				got, err := b.RecvBorrowed(testkit.Context(t))
				require.NoError(t, err)
				// Other channels must not write into it.
				c, d := l.channels(t)
				other := testkit.Background(t, func() error {
					return c.SendBytes(testkit.Context(t), make([]byte, size))
				})
				_, err = d.RecvBorrowed(testkit.Context(t))
				require.NoError(t, err)
				require.NoError(t, other())
				c.Abort()
				d.Abort()
				require.True(t, bytes.Equal(pattern(i, size), got), "%d bytes", size)
				_ = append(got, "this must not write over the next message"...)
				if l.name != ringName { // large messages are in shared memory there
					clear(got)
				}
			}
			require.NoError(t, sent())
		})
	}
}

func TestBorrowed_RefusesWhatRecvBytesDoes(t *testing.T) {
	a, b := sockets[0].channels(t)
	require.NoError(t, a.Send(testkit.Context(t), 1))
	_, err := b.RecvBorrowed(testkit.Context(t))
	require.ErrorIs(t, err, transport.ErrWrongKind)
	require.NoError(t, b.Recv(testkit.Context(t), new(int)))
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errCause)
	_, err = b.RecvBorrowed(ctx)
	require.ErrorIs(t, err, errCause)
	require.NoError(t, a.Close())
	_, err = b.RecvBorrowed(testkit.Context(t))
	var bye *transport.GoodbyeError
	require.ErrorAs(t, err, &bye)
}

// A large message changes how much the channel reads at a time.
func TestMessages_AnySizesAfterEachOther(t *testing.T) {
	const large = 64 << 10
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(3, 3))
			var data []byte
			var want []message
			add := func(kind frame.Kind, body []byte) {
				m := message{kind, body}
				if kind == frame.KindMessage {
					body = append([]byte{0x5a, 0, byte(len(body) >> 16), byte(len(body) >> 8),
						byte(len(body))}, body...)
				}
				data = append(data, frameOf(kind, body...)...)
				if kind == frame.KindRaw || kind == frame.KindMessage {
					want = append(want, m)
				}
			}
			for i, size := range []int{large, large - 1, large + 1, 0, 1, 100, 8 << 10, 8<<10 + 1,
				20_000, 200_000, large} {
				for _, kind := range []frame.Kind{frame.KindRaw, frame.KindMessage,
					frame.KindExtension, frame.KindPing} {
					add(frame.KindRaw, pattern(i, large))
					if kind == frame.KindPing {
						size = min(size, 60)
					}
					for range 1 + rng.IntN(3) {
						add(kind, pattern(i+1, size))
					}
				}
			}
			add(frame.KindRaw, nil)
			c, peer := l.withRawPeer(t, transport.Config{})
			wrote := testkit.Background(t, func() error { _, err := peer.Write(data); return err })
			pongs := testkit.Background(t, func() error {
				_, err := io.Copy(io.Discard, peer)
				return err
			})
			buf := make([]byte, 200_000)
			for i, m := range want {
				var short *transport.ShortBufferError
				if i%3 == 0 {
					_, err := c.RecvBytes(testkit.Context(t), buf[:min(large, len(m.body))/2])
					require.True(t, len(m.body) < 2 || errors.Is(err, transport.ErrWrongKind) ||
						errors.As(err, &short), "%v", err)
					if err == nil {
						continue
					}
				}
				n, err := c.RecvBytes(testkit.Context(t), buf)
				got := transport.Bytes(buf[:n])
				if errors.Is(err, transport.ErrWrongKind) {
					require.Equal(t, frame.KindMessage, m.kind)
					err = c.Recv(testkit.Context(t), &got)
				}
				require.NoError(t, err)
				require.True(t, bytes.Equal(m.body, got), "message %d", i)
			}
			require.NoError(t, wrote())
			c.Abort()
			peer.Close()
			pongs()
		})
	}
}

func TestBytes_ReuseTheirMemory(t *testing.T) {
	type chunk struct {
		N    int
		Data transport.Bytes
	}
	type plain struct {
		N    int
		Data []byte
	}
	a, b := sockets[0].channels(t)
	got := chunk{Data: make(transport.Bytes, 0, 1<<20)}
	memory := &got.Data[:1][0]
	for i, size := range []int{0, 1, 23, 24, 255, 256, 65_535, 65_536, 1 << 20, 5} {
		want := pattern(i, size)
		sent := testkit.Background(t, func() error {
			return a.Send(testkit.Context(t), plain{i, want})
		})
		require.NoError(t, b.Recv(testkit.Context(t), &got))
		require.NoError(t, sent())
		require.Equal(t, i, got.N)
		require.True(t, bytes.Equal(want, got.Data), "%d bytes", size)
		require.Same(t, memory, &got.Data[:1][0])

		sent = testkit.Background(t, func() error {
			return a.Send(testkit.Context(t), chunk{i, want})
		})
		var back plain
		require.NoError(t, b.Recv(testkit.Context(t), &back))
		require.NoError(t, sent())
		require.True(t, bytes.Equal(want, back.Data), "%d bytes", size)
	}
}

func TestBytes_DecodeLikeAByteSlice(t *testing.T) {
	for _, item := range [][]byte{
		{0x40}, {0x43, 1, 2, 3}, {0x58, 1, 9}, {0x59, 0, 2, 8, 9}, {0x5a, 0, 0, 0, 1, 7},
		{0x5b, 0, 0, 0, 0, 0, 0, 0, 1, 7},
		{0x5f, 0x41, 1, 0x42, 2, 3, 0xff}, {0x5f, 0xff}, {0xf6}, {0xf7}, {0x83, 1, 2, 3},
		{0x63, 'a', 'b', 'c'}, {0x01}, {0xa0}, {0xc2, 0x41, 5},
		{0x43, 1, 2}, {0x58}, {0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		{0x5c}, {}, {0x41, 1, 2},
	} {
		var want []byte
		wantErr := cbor.Unmarshal(item, &want)
		got := transport.Bytes("old")
		err := cbor.Unmarshal(item, &got)
		require.Equal(t, wantErr == nil, err == nil, "%x: %v, %v", item, wantErr, err)
		if err == nil {
			require.Equal(t, fmt.Sprintf("%x", want), fmt.Sprintf("%x", []byte(got)), "%x", item)
		}
		direct := transport.Bytes("old")
		err = direct.UnmarshalCBOR(item)
		require.Equal(t, wantErr == nil, err == nil, "%x: %v, %v", item, wantErr, err)
	}
}

func TestAllocs_LargeMessages(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	type chunk struct {
		N    int
		Data transport.Bytes
	}
	for _, size := range []int{0, 100, 8 << 10, 64 << 10, 200_000} {
		a, b := sockets[0].channels(t)
		ctx := context.Background()
		sent, got := &chunk{1, make([]byte, size)}, new(chunk)
		batch := a.NewBatch()
		borrow := func() error { _, err := b.RecvBorrowed(ctx); return err }
		for name, test := range map[string]struct {
			send, recv func() error
			most       float64
		}{
			"borrowed": {func() error { return a.SendBytes(ctx, sent.Data) }, borrow, 0},
			"batched": {func() error {
				if err := batch.SendBytes(ctx, sent.Data); err != nil {
					return err
				}
				return batch.Flush(ctx)
			}, borrow, 0},
			"typed": {func() error {
				return a.Send(ctx, sent)
			}, func() error { return b.Recv(ctx, got) }, 1},
		} {
			begin, result := make(chan struct{}), make(chan error)
			go func() {
				for range begin {
					result <- test.send()
				}
			}()
			allocs := testing.AllocsPerRun(300, func() {
				begin <- struct{}{}
				if err := test.recv(); err != nil {
					t.Error(err)
				}
				if err := <-result; err != nil {
					t.Error(err)
				}
			})
			close(begin)
			assert.LessOrEqual(t, allocs, test.most, "%s, %d bytes", name, size)
		}
	}
}

// An idle channel has been used, and a receive waits for the next message.
func TestMemory_IdleChannels(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's memory is no measure")
	}
	const pairs = 300
	a := make([]*transport.Channel, pairs)
	b := make([]*transport.Channel, pairs)
	for i := range pairs {
		a[i], b[i] = sockets[0].channels(t)
	}
	inUse := func() uint64 {
		runtime.GC()
		runtime.GC() // the second one empties the pools
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc + stats.StackInuse
	}
	before, threads := inUse(), pprof.Lookup("threadcreate").Count()
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range pairs {
		for _, c := range []*transport.Channel{a[i], b[i]} {
			wg.Go(func() {
				for {
					var p transport.Bytes
					if c.Recv(ctx, &p) != nil {
						return
					}
				}
			})
		}
	}
	for _, size := range []int{10, 100_000, 10} {
		for i := range pairs {
			require.NoError(t, a[i].Send(ctx, transport.Bytes(make([]byte, size))))
			require.NoError(t, b[i].Send(ctx, transport.Bytes(make([]byte, size))))
		}
	}
	for i := range pairs { // all messages have arrived
		_, err := a[i].Ping(testkit.Context(t))
		require.NoError(t, err)
		_, err = b[i].Ping(testkit.Context(t))
		require.NoError(t, err)
	}
	each := float64(inUse()-before) / (2 * pairs)
	t.Logf("%.0f bytes each, with the stack of the goroutine that receives", each)
	assert.Less(t, each, float64(16<<10))
	assert.Less(t, pprof.Lookup("threadcreate").Count()-threads, 20, "no thread waits with them")
	for i := range pairs {
		a[i].Abort()
		b[i].Abort()
	}
	wg.Wait()
}
