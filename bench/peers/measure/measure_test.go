package measure

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/bench/peers/peer"
)

// fake is a peer that reports a fixed time for each operation.
type fake struct {
	name  string
	op    time.Duration
	fails int // number of the Run that fails, from 1; 0: none
	hangs bool
	order *[]string

	runs   int
	closed chan struct{}
}

func (f *fake) Name() string                                        { return f.name }
func (f *fake) Module() string                                      { return "" }
func (f *fake) Does(peer.Job) bool                                  { return true }
func (f *fake) Serve(peer.Job, peer.Ready) error                    { return nil }
func (f *fake) Open(context.Context, peer.Job) (peer.Worker, error) { return f, nil }

func (f *fake) Run(n int) (peer.Took, error) {
	f.runs++
	if f.runs == f.fails {
		return peer.Took{}, errors.New("it is broken")
	}
	if f.hangs {
		<-f.closed
		return peer.Took{}, errors.New("closed")
	}
	if f.order != nil {
		*f.order = append(*f.order, f.name)
	}
	took := peer.Took{Total: time.Duration(n) * f.op}
	for range n {
		took.Each = append(took.Each, f.op)
	}
	return took, nil
}

func (f *fake) Close() error {
	if f.closed != nil {
		select {
		case <-f.closed:
		default:
			close(f.closed)
		}
	}
	return nil
}

func options(rounds int) Options {
	return Options{Rounds: rounds, Turn: time.Millisecond, Progress: func(string) {}}
}

var trips = peer.Job{Work: peer.RoundTrip, Network: "unix", Size: 64}

func TestJob_RatiosWithinRound(t *testing.T) {
	all := []peer.Peer{&fake{name: "slow", op: 30 * time.Microsecond},
		&fake{name: peer.Floor, op: 20 * time.Microsecond}}
	table, err := Job(t.Context(), all, trips, options(5))
	require.NoError(t, err)
	require.Len(t, table.Rows, 2)
	slow, floor := table.Rows[0], table.Rows[1]
	assert.Equal(t, "slow", slow.Peer)
	assert.InDelta(t, 1.5, slow.Ratio.P50, 1e-9)
	assert.InDelta(t, 30e3, slow.Op.P50, 1e-9)
	assert.InEpsilon(t, 30e3, slow.Latency.P99, 0.03)
	assert.InDelta(t, 1, floor.Ratio.P90, 1e-9)
	require.NotNil(t, slow.Allocs)
}

func TestJob_FailureOfOneCompetitor(t *testing.T) {
	broken := &fake{name: "broken", op: time.Microsecond, fails: 20}
	hangs := &fake{name: "hangs", hangs: true, closed: make(chan struct{})}
	opt := options(10)
	opt.Patience = 3 * time.Second
	table, err := Job(t.Context(),
		[]peer.Peer{broken, hangs, &fake{name: peer.Floor, op: time.Microsecond}}, trips, opt)
	require.NoError(t, err)
	assert.Contains(t, table.Rows[0].Error, "it is broken")
	assert.Zero(t, table.Rows[0].Ratio)
	assert.Contains(t, table.Rows[1].Error, "no answer within 3s")
	assert.Empty(t, table.Rows[2].Error)
	assert.InDelta(t, 1, table.Rows[2].Ratio.P50, 1e-9)
}

// Each competitor is first equally often, and follows each other competitor.
func TestJob_OrderOfTurnsChanges(t *testing.T) {
	var order []string
	var all []peer.Peer
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, &fake{name: name, op: time.Millisecond, order: &order})
	}
	const rounds = 6
	_, err := Job(t.Context(), all, trips, options(rounds))
	require.NoError(t, err)
	order = order[len(order)-rounds*6:] // each turn is two runs
	first, pairs := map[string]int{}, map[string]bool{}
	for i := 0; i < len(order); i += 2 {
		assert.Equal(t, order[i], order[i+1], "the unmeasured run is before the measured one")
		if i%6 == 0 {
			first[order[i]]++
		} else {
			pairs[order[i-2]+order[i]] = true
		}
	}
	assert.Equal(t, map[string]int{"a": 2, "b": 2, "c": 2}, first)
	assert.Len(t, pairs, 6)
}

func TestJob_EndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	opt := options(math.MaxInt16)
	opt.Progress = func(step string) {
		if step != trips.String()+": a" {
			cancel(enough)
		}
	}
	_, err := Job(ctx, []peer.Peer{&fake{name: "a", op: time.Microsecond}}, trips, opt)
	assert.ErrorIs(t, err, enough)
}
