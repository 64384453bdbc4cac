package call_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

var modelRounds = flag.Int("rounds", 400, "the rounds of TestModel_NoCallHangs")

// TestModel_NoCallHangs explores schedules: two sides make calls over a connection in
// memory, and the seed of a round decides how long each read, write, handler and pause
// takes. The time is that of synctest, so a call that waits for a lost wake-up is
// found at once. TestModel_FindsRemovedWakeUps removes the wake-ups one by one.
func TestModel_NoCallHangs(t *testing.T) {
	rounds := *modelRounds
	if testkit.IsLong() {
		rounds *= 50
	}
	// The pools keep Go channels, and those of a bubble work in no other.
	emptyPools := func() { runtime.GC(); runtime.GC() }
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(rounds) {
			newModel(seed).round(t)
		}
	})
}

// model is a round: two Conns, and what they do.
type model struct {
	seed  uint64
	mu    sync.Mutex // guards rng
	rng   *rand.Rand
	delay time.Duration // the longest of a read or a write
	nest  int           // how deep calls call back, at most
	conns [2]net.Conn
	sides [2]*call.Conn
}

func newModel(seed uint64) *model { return &model{seed: seed, rng: rand.New(rand.NewPCG(seed, 1))} }

// n returns a number below most.
func (m *model) n(most int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(most)
}

// pause takes half the time none, and else up to most.
func (m *model) pause(most time.Duration) {
	if d := m.n(2 * int(most+1)); d < int(most) {
		time.Sleep(time.Duration(d))
	}
}

// slowConn delays reads and writes.
type slowConn struct {
	net.Conn
	m *model
}

func (c slowConn) Read(b []byte) (int, error) {
	c.m.pause(c.m.delay)
	return c.Conn.Read(b)
}

func (c slowConn) Write(b []byte) (int, error) {
	c.m.pause(c.m.delay)
	return c.Conn.Write(b)
}

// order is a request.
type order struct {
	Pause time.Duration // of the handler
	Wait  bool          // for the end of the context
	Exit  bool          // of the goroutine
	Nest  int           // calls back, so deep
	Bytes []byte
}

var (
	modelOne  = call.NewUnary[order, order]("model.one")
	modelMany = call.NewServerStream[order, []byte]("model.many")
	modelSum  = call.NewClientStream[[]byte, int]("model.sum")
	modelBoth = call.NewSession[int, []byte, []byte]("model.both")
)

func (m *model) methods() *call.Mux {
	mux := call.NewMux()
	modelOne.Handle(mux, func(ctx context.Context, o order) (order, error) {
		time.Sleep(o.Pause)
		switch {
		case o.Exit:
			runtime.Goexit()
		case o.Wait:
			<-ctx.Done()
			return order{}, ctx.Err()
		case o.Nest > 0:
			o.Nest--
			return modelOne.Call(ctx, call.ConnOf(ctx), o)
		}
		return o, nil
	})
	modelMany.Handle(mux, func(_ context.Context, o order, send func([]byte) error) error {
		for range o.Nest {
			if err := send(o.Bytes); err != nil {
				return err
			}
			m.pause(o.Pause)
		}
		return nil
	})
	modelSum.Handle(mux, func(_ context.Context, in iter.Seq2[[]byte, error]) (n int, err error) {
		for b, err := range in {
			if err != nil {
				return 0, err
			}
			m.pause(100 * time.Microsecond)
			n += len(b)
		}
		return n, nil
	})
	modelBoth.Handle(mux, func(
		_ context.Context, s *call.Stream[[]byte, []byte], started func(int) error,
	) error {
		if err := started(1); err != nil {
			return err
		}
		m.pause(2 * time.Millisecond)
		for b, err := range s.All() {
			if err != nil {
				return err
			}
			if err := s.Send(b); err != nil {
				return err
			}
		}
		return nil
	})
	return mux
}

// round runs the model until all calls have ended.
func (m *model) round(t *testing.T) {
	m.delay = []time.Duration{0, 20 * time.Microsecond, 2 * time.Millisecond}[m.n(3)]
	cfg := call.Config{
		MaxCalls: 1 + m.n(6), Memory: 40_000 << m.n(4), MaxMessage: 20_000,
		CancelGrace: 24 * time.Hour,
	}
	if m.n(4) == 0 {
		cfg.Memory = 64 << 20 // large windows
	}
	if m.nest = m.n(3); m.nest > 0 {
		cfg.MaxCalls = 40 // calls that wait for each other's slots would hang
	}
	m.conns[0], m.conns[1] = net.Pipe()
	var channels [2]*transport.Channel
	for i, conn := range m.conns {
		channels[i] = transport.New(slowConn{conn, m}, transport.Config{})
		m.sides[i] = cfg.New(call.Over(channels[i]), m.methods())
	}
	var wg sync.WaitGroup
	if m.n(4) == 0 {
		m.sendMessages(&wg, channels[0])
	}
	both := m.n(3) > 0
	for i := range 1 + m.n(8) {
		conn := m.sides[0]
		if both {
			conn = m.sides[i%2]
		}
		wg.Go(func() {
			for range 1 + m.n(6) {
				m.pause([]time.Duration{0, 100 * time.Microsecond, 20 * time.Millisecond}[m.n(3)])
				m.call(t, conn)
			}
		})
	}
	if m.n(3) == 0 {
		for range 1 + m.n(2) {
			wg.Go(func() {
				m.pause(5 * time.Millisecond)
				m.end()
			})
		}
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Hour):
		buf := make([]byte, 1<<20)
		t.Logf("%s", buf[:runtime.Stack(buf, true)])
		t.Errorf("a call hangs; the seed is %d", m.seed)
	}
	for i := range m.sides {
		assert.NoError(t, m.sides[i].Close())
		m.conns[i].Close()
	}
	<-ended
	require.False(t, t.Failed(), "the seed is %d", m.seed)
}

// sendMessages sends messages beside the calls, and receives them.
func (m *model) sendMessages(wg *sync.WaitGroup, ch *transport.Channel) {
	ctx := context.Background()
	size := 1 + m.n(150_000) // 20 may be more than the receiver's Conn keeps
	wg.Go(func() {
		for range 20 {
			if ch.SendBytes(ctx, make([]byte, size)) != nil {
				return
			}
		}
	})
	wg.Go(func() {
		m.pause(30 * time.Millisecond)
		for range 20 {
			if _, err := m.sides[1].RecvBytes(ctx); err != nil {
				return
			}
		}
	})
}

// end ends the connection.
func (m *model) end() {
	side := m.sides[m.n(2)]
	switch m.n(4) {
	case 0:
		m.conns[m.n(2)].Close()
	case 1:
		side.Close()
	default:
		side.Drain(context.Background())
	}
	m.conns[0].Close()
}

// call makes a call, which the context may end.
func (m *model) call(t *testing.T, conn *call.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := order{Pause: time.Duration(m.n(2)*m.n(1500)) * time.Microsecond, Nest: m.n(m.nest + 1)}
	if m.n(3) == 0 {
		o.Bytes = make([]byte, m.n(15_000))
	}
	shape := m.n(8)
	o.Wait, o.Exit = shape == 0, shape > 3 && m.n(20) == 0
	if o.Wait || m.n(4) == 0 {
		stop := time.AfterFunc(time.Duration(m.n(3000))*time.Microsecond, cancel)
		defer stop.Stop()
	}
	var err error
	switch shape {
	case 1:
		o.Nest = m.n(60)
		for _, err = range modelMany.Call(ctx, conn, o) {
			m.pause(200 * time.Microsecond)
		}
	case 2:
		_, err = modelSum.Call(ctx, conn, func(yield func([]byte) bool) {
			for range m.n(30) {
				if !yield(o.Bytes) {
					return
				}
			}
		})
	case 3:
		err = m.converse(ctx, conn, o.Bytes)
	default:
		_, err = modelOne.Call(ctx, conn, o)
	}
	var e *call.Error
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, call.ErrClosed) {
		if assert.ErrorAs(t, err, &e) {
			assert.Contains(t, []call.Code{
				call.CodeConnection, call.CodeDraining, call.CodePanic}, e.Code, "%v", e)
		}
	}
}

func (m *model) converse(ctx context.Context, conn *call.Conn, b []byte) error {
	_, s, err := modelBoth.Open(ctx, conn)
	if err != nil {
		return err
	}
	defer s.Close()
	go func() {
		for range m.n(20) {
			if s.Send(b) != nil {
				return
			}
		}
		if m.n(5) == 0 {
			s.Close()
		}
		s.CloseSend()
	}()
	for _, err := range s.All() {
		if err != nil && err != io.EOF { //nolint:errorlint // of a Send after the end
			return err
		}
		if m.n(20) == 0 {
			return nil
		}
	}
	return nil
}
