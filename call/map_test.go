package call_test

import (
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

var square = call.NewUnary[int, int]("square")

// squares returns n connections to servers of square.
func squares(t *testing.T, n int, handle func(context.Context, int) (int, error)) []*call.Conn {
	var conns []*call.Conn
	for range n {
		mux := call.NewMux()
		square.Handle(mux, handle)
		c, _ := pair(t, nil, mux)
		conns = append(conns, c)
	}
	return conns
}

func numbers(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := 0; i < n && yield(i); i++ {
		}
	}
}

func TestMap_YieldsEachResult(t *testing.T) {
	var running, most atomic.Int64
	third := make(chan struct{}, 1)
	conns := squares(t, 3, func(_ context.Context, n int) (int, error) {
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		switch n {
		case 0:
			<-third // in both orders the fourth request ends before the first
		case 3:
			third <- struct{}{}
		}
		if n == 50 {
			return 0, errQuota
		}
		return n * n, nil
	})
	for _, unordered := range []bool{false, true} {
		var order []int
		for r := range call.Map(testkit.Context(t), conns, square, numbers(200),
			call.MapConfig{Parallel: 5, Unordered: unordered}) {
			order = append(order, r.Index)
			if r.Index == 50 {
				assert.ErrorIs(t, r.Err, errQuota)
				continue
			}
			assert.NoError(t, r.Err)
			assert.Equal(t, r.Index*r.Index, r.Value)
		}
		assert.Equal(t, !unordered, slices.IsSorted(order))
		slices.Sort(order)
		assert.Equal(t, slices.Collect(numbers(200)), order)
	}
	assert.LessOrEqual(t, most.Load(), int64(5))
}

func TestMap_EarlyBreakCancelsTheRest(t *testing.T) {
	var running atomic.Int64
	conns := squares(t, 2, func(ctx context.Context, n int) (int, error) {
		running.Add(1)
		defer running.Add(-1)
		if n > 0 {
			<-ctx.Done()
		}
		return n, ctx.Err()
	})
	for r := range call.Map(testkit.Context(t), conns, square, numbers(1000), call.MapConfig{}) {
		require.NoError(t, r.Err)
		break
	}
	assert.Zero(t, running.Load())
}

// A child dies in the middle. Its calls are made again on the others.
func TestMap_RepeatsTheCallsOfADeadChild(t *testing.T) {
	var children []*forkspawn.Child
	var conns []*call.Conn
	for range 3 {
		child, conn := spawnServer(t, nil, forkspawn.Config{})
		children, conns = append(children, child), append(conns, conn)
	}
	kill := sync.OnceFunc(func() { assert.NoError(t, children[1].Signal(syscall.SIGKILL)) })
	n := 0
	for r := range call.Map(testkit.Context(t), conns, echo, func(yield func(word) bool) {
		for i := 0; i < 300 && yield(word{"x"}); i++ {
		}
	}, call.MapConfig{Parallel: 12, Repeat: always}) {
		require.NoError(t, r.Err)
		if n++; n == 100 {
			kill()
		}
	}
	assert.Equal(t, 300, n)

	for r := range call.Map(testkit.Context(t), conns[1:2], echo,
		func(yield func(word) bool) { yield(word{}) }, call.MapConfig{Repeat: always}) {
		assert.Equal(t, call.CodeConnection, asError(t, r.Err).Code)
	}
}

func TestMap_DrainingConnectionsAreLeftOut(t *testing.T) {
	conns := squares(t, 2, func(_ context.Context, n int) (int, error) { return n, nil })
	require.NoError(t, conns[0].Drain(testkit.Context(t)))
	for r := range call.Map(testkit.Context(t), conns, square, numbers(20), call.MapConfig{}) {
		assert.NoError(t, r.Err)
	}
}

func always(int, int, error) bool { return true }

var fragile = call.NewUnary[int, int]("fragile")

var fragileServer = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux()
	fragile.Handle(mux, func(ctx context.Context, n int) (int, error) {
		switch n {
		case 7:
			os.Exit(9)
		case 11:
			select {}
		case 13:
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return n, nil
	})
	return call.Serve(ctx, parent, mux)
})

// Map starts the children, and replaces those that a request kills. The request is
// given up after its second child, and the others have their results.
func TestMap_ReplacesDeadChildren(t *testing.T) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	const workers = 2
	var children [workers]*forkspawn.Child
	var conns [workers]*call.Conn
	var starts atomic.Int64
	open := func(ctx context.Context, i int) (*call.Conn, error) {
		if conns[i] != nil {
			conns[i].Close()
			children[i].Kill()
		}
		starts.Add(1)
		child, err := s.Spawn(ctx, spawnspec.Spec{Entry: fragileServer})
		if err != nil {
			return nil, err
		}
		cfg := call.Config{CancelGrace: 300 * time.Millisecond}
		children[i], conns[i] = child, cfg.New(child, nil)
		return conns[i], nil
	}
	defer func() {
		for _, c := range conns {
			c.Close() // before the Spawner
		}
	}()
	var ends atomic.Int64
	for r := range call.Map(testkit.Context(t), make([]*call.Conn, workers), fragile, numbers(40),
		call.MapConfig{Parallel: workers, Open: open, Timeout: time.Second,
			Repeat: func(index, ended int, err error) bool {
				assert.Contains(t, []int{7, 11}, index)
				ends.Add(1)
				return ended < 2
			}}) {
		var exit *forkspawn.ExitError
		switch r.Index {
		case 7: // it kills its child
			require.ErrorAs(t, r.Err, &exit)
			assert.Equal(t, 9, exit.Status.Code())
		case 11: // it never ends, also after its time limit
			require.ErrorIs(t, r.Err, call.ErrStillRunning)
		case 13: // it ends at its time limit
			require.ErrorIs(t, r.Err, context.DeadlineExceeded)
			require.NotErrorIs(t, r.Err, call.ErrStillRunning)
		default:
			require.NoError(t, r.Err)
			assert.Equal(t, r.Index, r.Value)
		}
	}
	assert.Equal(t, int64(4), ends.Load())
	assert.GreaterOrEqual(t, starts.Load(), int64(workers+2))
}

// An error of Open is that of the request.
func TestMap_OpenFails(t *testing.T) {
	n := 0
	fails := func(context.Context, int) (*call.Conn, error) { return nil, errQuota }
	for r := range call.Map(testkit.Context(t), make([]*call.Conn, 2), fragile, numbers(3),
		call.MapConfig{Open: fails}) {
		require.ErrorIs(t, r.Err, errQuota)
		n++
	}
	assert.Equal(t, 3, n)
}
