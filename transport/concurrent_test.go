package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestConcurrent_ManySendersAndReceivers(t *testing.T) {
	const senders, receivers, each = 64, 64, 30
	type call struct {
		send func(context.Context, *transport.Channel, []byte) error
		recv func(context.Context, *transport.Channel) ([]byte, error)
	}
	calls := map[string]call{
		"messages": {
			func(ctx context.Context, c *transport.Channel, p []byte) error {
				return c.Send(ctx, p)
			},
			func(ctx context.Context, c *transport.Channel) (p []byte, err error) {
				err = c.Recv(ctx, &p)
				return p, err
			},
		},
		"raw bytes": {
			func(ctx context.Context, c *transport.Channel, p []byte) error {
				return c.SendBytes(ctx, p)
			},
			func(ctx context.Context, c *transport.Channel) ([]byte, error) {
				buf := make([]byte, 100_000)
				n, err := c.RecvBytes(ctx, buf)
				return buf[:n], err
			},
		},
	}
	for _, l := range links() {
		for name, call := range calls {
			t.Run(l.name+", "+name, func(t *testing.T) {
				t.Parallel()
				a, b := l.channels(t)
				var sending, rest sync.WaitGroup
				for s := range senders {
					sending.Go(func() {
						rng := rand.New(rand.NewPCG(uint64(s), 0))
						for i := range each {
							seed := s*each + i
							p := append(binary.LittleEndian.AppendUint32(nil, uint32(seed)),
								pattern(seed, rng.IntN(1<<rng.IntN(17)))...)
							assert.NoError(t, call.send(testkit.Context(t), a, p))
						}
					})
				}
				var mu sync.Mutex
				got := make(map[int]int)
				for range receivers {
					rest.Go(func() {
						for {
							p, err := call.recv(testkit.Context(t), b)
							if errors.Is(err, io.EOF) {
								return
							}
							if !assert.NoError(t, err) || !assert.GreaterOrEqual(t, len(p), 4) {
								return
							}
							seed := int(binary.LittleEndian.Uint32(p))
							if !assert.True(t, bytes.Equal(pattern(seed, len(p)-4), p[4:]),
								"message %d is spoilt", seed) {
								return
							}
							mu.Lock()
							got[seed]++
							mu.Unlock()
						}
					})
				}
				pings := receiving(t, a)
				sending.Go(func() {
					for range 10 {
						_, err := a.Ping(testkit.Context(t))
						assert.NoError(t, err)
					}
				})
				sending.Wait()
				if t.Failed() {
					a.Abort()
				}
				assert.NoError(t, a.Close())
				rest.Wait()
				require.ErrorIs(t, pings(), transport.ErrChannelClosed)
				require.Len(t, got, senders*each)
				for seed, n := range got {
					require.Equal(t, 1, n, "message %d", seed)
				}
			})
		}
	}
}

func TestMemory_IsNotSharedByChannels(t *testing.T) {
	// larger than the read buffer, so the memory of the body is from a pool
	const each, size = 50, 100_000
	var wg sync.WaitGroup
	for pair := range 8 {
		a, b := sockets[0].channels(t)
		wg.Go(func() {
			for i := range each {
				assert.NoError(t, a.Send(testkit.Context(t), pattern(pair*each+i, size)))
			}
		})
		wg.Go(func() {
			var got []byte
			for i := range each {
				if !assert.NoError(t, b.Recv(testkit.Context(t), &got)) {
					return
				}
				assert.True(t, bytes.Equal(pattern(pair*each+i, size), got),
					"message %d is spoilt", i)
			}
		})
	}
	wg.Wait()
}

func TestConcurrent_MessagesOfOneSenderStayInOrder(t *testing.T) {
	a, b := sockets[0].channels(t)
	sent := testkit.Background(t, func() error {
		for i := range 10_000 {
			if err := a.Send(context.Background(), i); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 10_000 {
		var got int
		require.NoError(t, b.Recv(testkit.Context(t), &got))
		require.Equal(t, i, got)
	}
	require.NoError(t, sent())
}

func TestConcurrent_BothSidesSendMoreThanFits(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			var results []func() error
			for _, c := range []*transport.Channel{a, b} {
				results = append(results,
					testkit.Background(t, func() error {
						for i := range 5 {
							if err := c.SendBytes(testkit.Context(t),
								pattern(i, 3<<20)); err != nil {
								return err
							}
						}
						return nil
					}),
					testkit.Background(t, func() error {
						buf := make([]byte, 3<<20)
						for i := range 5 {
							if _, err := c.RecvBytes(testkit.Context(t), buf); err != nil {
								return err
							}
							if !bytes.Equal(pattern(i, 3<<20), buf) {
								return fmt.Errorf("message %d is spoilt", i)
							}
						}
						return nil
					}))
			}
			for _, result := range results {
				require.NoError(t, result())
			}
		})
	}
}
