// Package measure lets the competitors of a job take turns, and makes figures of what they took.
package measure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/stats"
)

// Options say how long to measure.
type Options struct {
	Rounds int           // how often each competitor has its turn
	Turn   time.Duration // how long a turn takes, about
	// Progress is called with what is being done.
	Progress func(string)
	// Patience is how long a turn may take before its competitor is given up; 0 is peer.Patience.
	Patience time.Duration
}

// For returns the options of a job, of about the same length in all.
//
// Round trips of up to 64 KiB have ten times as many rounds, with turns of a fifth. Whether the scheduler has the two ends of a
// connection on one processor or on two makes a factor of three, also for the floor, and it mostly stays so for a turn. The median of 100
// such throws moves by a tenth from run to run; turns that are many cost little more time.
//
// Many senders have turns that are twenty times as long, and fewer of them. As they start they are no crowd yet: for up to some milliseconds
// one goroutine writes alone, until the scheduler has the others run.
func (o Options) For(job peer.Job) Options {
	switch {
	case job.Work == peer.RoundTrip && job.Size <= 64<<10:
		o.Rounds *= 10
		o.Turn /= 5
	case job.Work == peer.Senders:
		o.Rounds = (o.Rounds + 3) / 4
		o.Turn *= 20
	}
	return o
}

// Table has the figures of one job.
type Table struct {
	Job  peer.Job `json:"job"`
	Rows []Row    `json:"rows"`
}

// Row has the figures of one competitor.
type Row struct {
	Peer string `json:"peer"`
	// Error is why it has no figures.
	Error string `json:"error,omitempty"`
	// Op is the time of one operation in ns: the spread over the rounds.
	Op stats.Spread `json:"op_ns"`
	// Ratio is Op of each round divided by the floor's in the same round.
	Ratio stats.Spread `json:"ratio"`
	// Latency is of single round trips, all rounds together.
	Latency *Latency `json:"latency_ns,omitempty"`
	// Allocs is how many allocations an operation makes on the caller's side; nil: not known.
	Allocs *float64 `json:"allocs,omitempty"`
}

// Latency has percentiles in ns.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// competitor is one that takes turns.
type competitor struct {
	peer     peer.Peer
	patience time.Duration
	worker   peer.Worker
	n        int       // operations of a turn
	op       []float64 // ns, by round; 0 is none
	each     stats.Histogram
	allocs   *float64
	err      error
}

// Job measures those of peers that do the job. In each round every one has a turn of about the same length; where the
// round begins moves on by one from round to round, and every other round goes backwards, so that none always comes
// after the same. A competitor that fails has no figures; the others go on. The error is ctx's alone.
func Job(ctx context.Context, peers []peer.Peer, job peer.Job, opt Options) (Table, error) {
	var all []*competitor
	defer func() {
		for _, c := range all {
			c.close()
		}
	}()
	for _, p := range peers {
		if !p.Does(job) {
			continue
		}
		if ctx.Err() != nil {
			return Table{}, context.Cause(ctx)
		}
		opt.Progress(fmt.Sprintf("%s: %s", job, p.Name()))
		c := &competitor{peer: p, patience: cmp.Or(opt.Patience, peer.Patience), op: make([]float64, opt.Rounds)}
		all = append(all, c)
		c.fail(c.open(ctx, job))
		c.fail(c.calibrate(opt.Turn))
		c.fail(c.countAllocs())
	}
	for round := range opt.Rounds {
		opt.Progress(fmt.Sprintf("%s: round %d of %d", job, round+1, opt.Rounds))
		for i := range all {
			if ctx.Err() != nil {
				return Table{}, context.Cause(ctx)
			}
			if round%2 == 1 {
				i = len(all) - 1 - i
			}
			c := all[(i+round)%len(all)]
			c.fail(c.turn(round, opt.Turn))
		}
	}
	return table(job, all), nil
}

func table(job peer.Job, all []*competitor) Table {
	var floor []float64
	if i := slices.IndexFunc(all, func(c *competitor) bool { return c.peer.Name() == peer.Floor }); i >= 0 {
		floor = slices.Clone(all[i].op)
	}
	t := Table{Job: job}
	for _, c := range all {
		row := Row{Peer: c.peer.Name(), Allocs: c.allocs}
		if c.err != nil {
			row = Row{Peer: c.peer.Name(), Error: c.err.Error()}
		} else {
			if ratios := stats.Ratios(c.op, floor); len(ratios) > 0 {
				row.Ratio = stats.SpreadOf(ratios)
			}
			row.Op = stats.SpreadOf(c.op)
			if job.Work == peer.RoundTrip {
				row.Latency = &Latency{c.each.Percentile(50), c.each.Percentile(90), c.each.Percentile(99), c.each.Percentile(99.9)}
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (c *competitor) open(ctx context.Context, job peer.Job) (err error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	c.worker, err = c.peer.Open(ctx, job)
	return err
}

// fail keeps the first error; after it the competitor does nothing any more.
func (c *competitor) fail(err error) {
	if c.err == nil && err != nil {
		c.err = err
		c.close()
	}
}

func (c *competitor) close() {
	if c.worker != nil {
		c.worker.Close()
		c.worker = nil
	}
}

// run does n operations, and ends a competitor that hangs.
func (c *competitor) run(n int) (peer.Took, error) {
	if c.worker == nil {
		return peer.Took{}, c.err
	}
	hung := make(chan struct{})
	worker := c.worker
	watch := time.AfterFunc(c.patience, func() {
		defer close(hung)
		worker.Close()
	})
	took, err := worker.Run(n)
	if !watch.Stop() {
		<-hung
		err = errors.Join(fmt.Errorf("no answer within %v", c.patience), err)
	}
	return took, err
}

// calibrate finds how many operations a turn has. A machine that is busy just then gives too few: see turn.
func (c *competitor) calibrate(turn time.Duration) error {
	for c.n = 1; ; c.n *= 2 {
		took, err := c.run(c.n)
		if err != nil {
			return err
		}
		if c.lengthen(took, turn); took.Total >= turn/2 {
			return nil
		}
	}
}

// lengthen makes the next turns longer when this one shows that they are too short: the fastest counts.
func (c *competitor) lengthen(took peer.Took, turn time.Duration) {
	c.n = max(c.n, int(float64(c.n)*float64(turn)/float64(max(took.Total, turn/100))))
}

// countAllocs counts the allocations of a turn in this process, where nothing else works meanwhile but the runtime: the
// least of three counts.
func (c *competitor) countAllocs() error {
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		took, err := c.run(c.n)
		if err != nil {
			return err
		}
		runtime.ReadMemStats(&after)
		if took.Elsewhere {
			return nil
		}
		if allocs := float64(after.Mallocs-before.Mallocs) / float64(c.n); c.allocs == nil || allocs < *c.allocs {
			c.allocs = &allocs
		}
	}
	return nil
}

// turn does the operations of one turn, after a tenth as many that do not count: they end what the one before has
// left (garbage, cold caches).
func (c *competitor) turn(round int, length time.Duration) error {
	if c.err != nil {
		return nil
	}
	if _, err := c.run(max(1, c.n/10)); err != nil {
		return err
	}
	took, err := c.run(c.n)
	if err != nil {
		return err
	}
	c.op[round] = float64(took.Total) / float64(c.n)
	for _, d := range took.Each {
		c.each.Add(d)
	}
	c.lengthen(took, length)
	return nil
}
