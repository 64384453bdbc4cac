package transport_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestTurn_IsPassedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		turn := transport.NewTurn()
		require.NoError(t, turn.Take(ctx, nil))
		const waiters = 20
		var got []int
		for i := range waiters {
			go func() {
				assert.NoError(t, turn.Take(ctx, nil))
				got = append(got, i)
				turn.Give()
			}()
			synctest.Wait()
		}
		turn.Give()
		require.NoError(t, turn.Take(ctx, nil), "behind those who waited already")
		require.Len(t, got, waiters)
		require.IsIncreasing(t, got)
	})
}

// Goroutines stop to wait at any moment. The turn is never held twice, and never lost.
func TestTurn_IsNeitherDoubledNorLost(t *testing.T) {
	turn := transport.NewTurn()
	var having, taken, left atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range 2000 {
				ctx, cancel := context.WithCancel(context.Background())
				switch rng.IntN(4) {
				case 0:
					cancel()
				case 1:
					time.AfterFunc(time.Duration(rng.IntN(20))*time.Microsecond, cancel)
				}
				err := turn.Take(ctx, nil)
				cancel()
				if errors.Is(err, context.Canceled) {
					left.Add(1)
					continue
				}
				if !assert.NoError(t, err) || !assert.EqualValues(t, 1, having.Add(1)) {
					return
				}
				taken.Add(1)
				if rng.IntN(3) == 0 {
					runtime.Gosched()
				}
				having.Add(-1)
				turn.Give()
			}
		})
	}
	wg.Wait()
	require.Zero(t, turn.Count())
	require.NoError(t, turn.Take(testkit.Context(t), nil))
	t.Logf("%d times taken, %d times given up", taken.Load(), left.Load())
}

func TestTurn_OfAClosedChannel(t *testing.T) {
	turn, closed := transport.NewTurn(), make(chan struct{})
	require.NoError(t, turn.Take(testkit.Context(t), closed))
	second := testkit.Background(t, func() error { return turn.Take(testkit.Context(t), closed) })
	close(closed)
	require.ErrorIs(t, second(), transport.ErrChannelClosed)
	turn.Give()
	require.Zero(t, turn.Count())
}
