package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestBatch_IsOneWriteInItsOrder(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			x, y := l.connect(t)
			counting := &countingConn{Conn: x}
			a, b := open(t, counting, transport.Config{}), open(t, y, transport.Config{})
			ctx := testkit.Context(t)
			batch := a.NewBatch()
			for i := range 100 {
				require.NoError(t, batch.Send(ctx, i))
				require.NoError(t, batch.SendBytes(ctx, pattern(i, i)))
			}
			assert.Zero(t, counting.writes.Load(), "nothing is written before the flush")
			require.NoError(t, batch.Flush(ctx))
			require.NoError(t, batch.Flush(ctx), "of nothing")
			assert.EqualValues(t, 1, counting.writes.Load())
			buf := make([]byte, 100)
			for i := range 100 {
				var got int
				require.NoError(t, b.Recv(ctx, &got))
				require.Equal(t, i, got)
				n, err := b.RecvBytes(ctx, buf)
				require.NoError(t, err)
				require.True(t, bytes.Equal(pattern(i, i), buf[:n]))
			}
		})
	}
}

func TestBatch_WritesByItselfWhenLarge(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			sizes := []int{1000, 30_000, 64<<10 - 6, 64 << 10, 64<<10 + 1, 5, 300_000, 0, 1}
			const rounds = 10
			sent := testkit.Background(t, func() error {
				batch := a.NewBatch()
				for i := range rounds {
					for j, size := range sizes {
						if err := batch.SendBytes(testkit.Context(t),
							pattern(i+j, size)); err != nil {
							return err
						}
						if err := batch.Send(testkit.Context(t), pattern(i+j, size)); err != nil {
							return err
						}
					}
				}
				return batch.Flush(testkit.Context(t))
			})
			buf := make([]byte, 300_000)
			var typed transport.Bytes
			for i := range rounds {
				for j, size := range sizes {
					want := pattern(i+j, size)
					n, err := b.RecvBytes(testkit.Context(t), buf)
					require.NoError(t, err)
					require.True(t, bytes.Equal(want, buf[:n]), "%d bytes", size)
					require.NoError(t, b.Recv(testkit.Context(t), &typed))
					require.True(t, bytes.Equal(want, typed), "%d bytes", size)
				}
			}
			require.NoError(t, sent())
		})
	}
}

func TestBatch_RefusedMessageLeavesTheOthers(t *testing.T) {
	ctx := testkit.Context(t)
	c, peer := sockets[0].withRawPeer(t, transport.Config{MaxFrameSize: 100_000})
	batch := c.NewBatch()
	require.NoError(t, batch.Send(ctx, 1))
	var size *transport.SizeError
	require.ErrorAs(t, batch.Send(ctx, make([]byte, 200_000)), &size)
	assert.Equal(t, transport.SizeError{Size: 200_006, Limit: 100_000}, *size)
	require.ErrorAs(t, batch.SendBytes(ctx, make([]byte, 100_000)), &size)
	assert.Equal(t, transport.SizeError{Size: 100_001, Limit: 100_000}, *size)
	var encode *transport.EncodeError
	require.ErrorAs(t, batch.Send(ctx, struct{ A, B any }{1, make(chan int)}), &encode)
	require.ErrorIs(t, batch.Send(ctx, refuses{}), errCause)
	require.Panics(t, func() { batch.Send(ctx, panics{}) })
	over, cancel := context.WithCancelCause(context.Background())
	cancel(errCause)
	require.ErrorIs(t, batch.Send(over, 9), errCause)
	require.ErrorIs(t, batch.SendBytes(over, []byte{9}), errCause)
	require.ErrorIs(t, batch.SendBytes(over, make([]byte, 90_000)), errCause)
	require.ErrorIs(t, batch.Flush(over), errCause)
	require.NoError(t, batch.Send(ctx, 2))
	require.NoError(t, batch.Flush(ctx))
	assert.Equal(t, append(frameOf(frame.KindMessage, 1), frameOf(frame.KindMessage, 2)...),
		readN(t, peer, 12))
}

func TestBatch_FlushCancelledBeforeItsFirstByte(t *testing.T) {
	x, peer := sockets[0].connect(t)
	filler := fill(t, x, peer)
	c := open(t, x, transport.Config{})
	batch := c.NewBatch()
	require.NoError(t, batch.Send(testkit.Context(t), 1))
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		require.ErrorIs(t, batch.Flush(ctx), context.DeadlineExceeded)
		require.ErrorIs(t, batch.SendBytes(ctx, make([]byte, 64<<10)), context.DeadlineExceeded)
		cancel()
	}
	require.NoError(t, batch.Send(testkit.Context(t), 2))
	flushed := testkit.Background(t, func() error { return batch.Flush(testkit.Context(t)) })
	readN(t, peer, filler)
	assert.Equal(t, append(frameOf(frame.KindMessage, 1), frameOf(frame.KindMessage, 2)...),
		readN(t, peer, 12))
	require.NoError(t, flushed())
}

func TestBatch_FlushCancelledWithinAFrame(t *testing.T) {
	c, peer := sockets[0].withStuckPeer(t)
	ctx, cancel := context.WithCancel(context.Background())
	batch := c.NewBatch()
	sent := testkit.Background(t, func() error {
		for {
			if err := batch.SendBytes(ctx, make([]byte, 1000)); err != nil {
				return err
			}
		}
	})
	readN(t, peer, 100)
	waitForStuck(t, c)
	cancel()
	err := sent()
	require.ErrorIs(t, err, context.Canceled)
	if errors.Is(err, transport.ErrBroken) {
		require.ErrorIs(t, batch.Send(testkit.Context(t), 1), nil, "the batch only collects it")
		require.ErrorIs(t, batch.Flush(testkit.Context(t)), transport.ErrBroken)
		require.ErrorIs(t, c.Send(testkit.Context(t), 1), transport.ErrBroken)
	}
}

// waitForStuck waits until the send under way blocks, because the buffers are full.
func waitForStuck(t testing.TB, c *transport.Channel) {
	t.Helper()
	for range 1000 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err := c.SendBytes(ctx, nil)
		cancel()
		if err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			return
		}
	}
	require.Fail(t, "the peer takes all that is sent")
}

func TestBatch_CloseDoesNotFlush(t *testing.T) {
	a, b := sockets[0].channels(t)
	batch := a.NewBatch()
	require.NoError(t, batch.Send(testkit.Context(t), 1))
	require.NoError(t, a.Close())
	require.ErrorIs(t, b.Recv(testkit.Context(t), new(any)), io.EOF)
	require.ErrorIs(t, batch.Flush(testkit.Context(t)), transport.ErrChannelClosed)
	require.NoError(t, batch.Flush(testkit.Context(t)), "what cannot be sent any more is dropped")
}

func TestBatch_BesideSendersLosesNothing(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			const senders, each = 8, 300
			a, b := l.channels(t)
			var wg sync.WaitGroup
			for s := range senders {
				wg.Go(func() {
					batch := a.NewBatch()
					send := batch.Send
					if s%2 == 0 {
						send = a.Send
					}
					for i := range each {
						if !assert.NoError(t, send(testkit.Context(t), [2]int{s, i})) {
							return
						}
						if i%(20+s) == 0 && !assert.NoError(t, batch.Flush(testkit.Context(t))) {
							return
						}
					}
					assert.NoError(t, batch.Flush(testkit.Context(t)))
				})
			}
			var next [senders]int
			for range senders * each {
				var got [2]int
				require.NoError(t, b.Recv(testkit.Context(t), &got))
				require.Equal(t, next[got[0]], got[1],
					"the messages of sender %d are in order", got[0])
				next[got[0]]++
			}
			wg.Wait()
		})
	}
}
