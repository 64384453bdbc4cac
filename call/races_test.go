package call_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

var raceCalls = flag.Int64("races", 3_000, "the calls of TestCancel_RacesWithEndAndDeath")

// Cancels come at every moment of a call: before, within and after it. The
// connections die at every moment, too. Each call ends, and after each
// acknowledgement its handler has ended. With a million calls it takes long:
//
//	go test -race -v -count=1 -timeout 60m -run TestCancel_Races ./call -races 1000000
func TestCancel_RacesWithEndAndDeath(t *testing.T) {
	calls := *raceCalls
	if testkit.IsLong() {
		calls *= 10
	}
	r := &races{running: make(map[int64]bool)}
	mux := r.methods()
	n := 0
	for ; r.calls.Load() < calls || r.died.Load() == 0 && n < 1000; n++ {
		x, y := testkit.Unix(t)
		a, b := r.open(t, x, mux), r.open(t, y, mux)
		var wg sync.WaitGroup
		ended := make(chan struct{})
		for i := range 8 {
			wg.Go(func() {
				conn := []*call.Conn{a, b}[i%2]
				rng := rand.New(rand.NewPCG(uint64(n), uint64(i)))
				for range 50 {
					if conn.Err() != nil {
						return
					}
					r.race(t, rng, conn)
				}
			})
		}
		if n%3 > 0 { // else all calls come to their end
			time.AfterFunc(time.Duration(rand.IntN(50_000))*time.Microsecond, func() {
				r.kill(n, x, a, b)
			})
		}
		go func() {
			wg.Wait()
			close(ended)
		}()
		testkit.Receive(t, ended)
		if n%3 == 0 {
			_, err := echo.Call(testkit.Context(t), a, word{"still works"})
			require.NoError(t, err)
		}
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		require.Zero(t, r.count(), "each handler has ended")
		x.Close()
		y.Close()
	}
	t.Logf("%d calls on %d connections: %d succeeded, %d were cancelled, %d died",
		r.calls.Load(), n, r.calls.Load()-r.cancelled.Load()-r.died.Load(),
		r.cancelled.Load(), r.died.Load())
	assert.Positive(t, r.cancelled.Load())
	assert.Positive(t, r.died.Load())
}

// races counts what happens to calls, and knows their handlers.
type races struct {
	calls, cancelled, died atomic.Int64

	mu      sync.Mutex // guards running
	running map[int64]bool
}

func (r *races) begin(id int64) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[id] = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, id)
	}
}

func (r *races) runs(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[id]
}

func (r *races) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.running)
}

// job is a request, and the one value of a stream.
type job struct {
	ID   int64
	Wait bool // for the cancellation
}

var (
	raceOne  = call.NewUnary[job, job]("race.one")
	raceMany = call.NewServerStream[job, job]("race.many")
	raceBoth = call.NewBidi[job, job]("race.both")
)

func (r *races) methods() *call.Mux {
	mux := echoes()
	raceOne.Handle(mux, func(ctx context.Context, j job) (job, error) {
		defer r.begin(j.ID)()
		if j.Wait {
			<-ctx.Done()
			return job{}, context.Cause(ctx)
		}
		return j, nil
	})
	raceMany.Handle(mux, func(ctx context.Context, j job, send func(job) error) error {
		defer r.begin(j.ID)()
		for range 50 {
			if err := send(j); err != nil {
				return err
			}
		}
		return nil
	})
	raceBoth.Handle(mux, func(ctx context.Context, s *call.Stream[job, job]) error {
		for j, err := range s.All() {
			if err != nil {
				return err
			}
			defer r.begin(j.ID)()
			if err := s.Send(j); err != nil {
				return err
			}
		}
		return nil
	})
	return mux
}

func (r *races) open(t *testing.T, conn net.Conn, mux *call.Mux) *call.Conn {
	return call.Config{CancelGrace: testkit.Patience, MaxCalls: 6}.New(
		call.Over(transport.New(conn, transport.Config{})), mux)
}

// race makes a call, cancels it at some moment, and checks its end.
func (r *races) race(t *testing.T, rng *rand.Rand, conn *call.Conn) {
	id := r.calls.Add(1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rng.IntN(4) > 0 {
		stop := time.AfterFunc(time.Duration(rng.IntN(150))*time.Microsecond, cancel)
		defer stop.Stop()
	}
	j := job{ID: id}
	var err error
	switch rng.IntN(6) {
	case 0:
		for _, err = range raceMany.Call(ctx, conn, j) {
			if rng.IntN(20) == 0 {
				break
			}
		}
	case 1:
		var s *call.Stream[job, job]
		if s, err = raceBoth.Open(ctx, conn); err == nil {
			if s.Send(j) == nil && rng.IntN(2) == 0 {
				s.CloseSend()
			}
			if _, err = s.Recv(); err == io.EOF { //nolint:errorlint // success
				err = nil
			}
			if closing := s.Close(); err == nil {
				err = closing
			}
		}
	case 2:
		j.Wait = true
		stop := time.AfterFunc(time.Duration(rng.IntN(150))*time.Microsecond, cancel)
		defer stop.Stop()
		fallthrough
	default:
		_, err = raceOne.Call(ctx, conn, j)
	}
	var e *call.Error
	switch {
	case err == nil && conn.Err() != nil:
		return // a loop or a stream that ended early
	case err == nil:
	case errors.As(err, &e) && e.Code == call.CodeConnection || errors.Is(err, call.ErrClosed):
		r.died.Add(1)
		return // its handler may run on
	case errors.Is(err, call.ErrDraining):
		r.died.Add(1)
	default:
		r.cancelled.Add(1)
		assert.ErrorIs(t, err, context.Canceled)
		assert.NotErrorIs(t, err, call.ErrStillRunning)
	}
	assert.False(t, r.runs(id), "after %v the handler has ended", err)
}

// kill ends a connection, in a different way for each n.
func (r *races) kill(n int, x net.Conn, a, b *call.Conn) {
	switch n % 4 {
	case 0:
		x.Close() // as the kernel does for a process that dies
	case 1:
		a.Close()
		x.Close()
	case 2:
		b.Close()
		x.Close()
	case 3:
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		a.Drain(ctx)
		x.Close()
	}
}
