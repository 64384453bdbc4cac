// Package measure lets the competitors of a job take turns and computes the
// results.
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

// Options are the options of a measurement.
type Options struct {
	Rounds int           // turns of each competitor
	Turn   time.Duration // approximate length of a turn
	// Progress is called with a description of each step.
	Progress func(string)
	// Patience is the longest time of a turn. A competitor that takes longer has
	// failed. Zero means peer.Patience.
	Patience time.Duration
}

// For returns the options for one job.
//
// Round trips of up to 64 KiB have ten times as many rounds and turns of a fifth.
// They are three times slower if the scheduler runs the two ends of a connection
// on two processors instead of one, and it seldom changes that during a turn. So
// with 100 rounds the median varies by a tenth from run to run.
//
// Many senders have a quarter of the rounds and turns of twenty times the length.
// At the start of a turn one goroutine writes alone, for up to some milliseconds,
// until the scheduler runs the others. The same holds for many callers and many
// streams. Round trips beside large messages need turns of many large messages.
func (o Options) For(job peer.Job) Options {
	switch {
	case job.Work == peer.Beside:
		o.Rounds = (o.Rounds + 7) / 8
		o.Turn *= 40
	case job.Work == peer.RoundTrip && job.Size <= 64<<10:
		o.Rounds *= 10
		o.Turn /= 5
	case job.Work == peer.Senders, job.Work == peer.Callers, job.Work == peer.Unread:
		o.Rounds = (o.Rounds + 3) / 4
		o.Turn *= 20
	}
	return o
}

// Table has the results of one job.
type Table struct {
	Job  peer.Job `json:"job"`
	Rows []Row    `json:"rows"`
}

// Row has the results of one competitor.
type Row struct {
	Peer string `json:"peer"`
	// Error is the reason if there are no results.
	Error string `json:"error,omitempty"`
	// Op is the time of one operation in ns, over all rounds.
	Op stats.Spread `json:"op_ns"`
	// Ratio is Op divided by the floor's Op of the same round, or by Op of the same
	// competitor alone.
	Ratio stats.Spread `json:"ratio"`
	// Latency is the time of single round trips of all rounds.
	Latency *Latency `json:"latency_ns,omitempty"`
	// Allocs is the number of allocations of one operation in the caller's
	// process, or nil if unknown.
	Allocs *float64 `json:"allocs,omitempty"`
	// OtherAllocs is the same in the other process.
	OtherAllocs *float64 `json:"other_allocs,omitempty"`
	// Alone has the results of the job alone, if it has a disturbance.
	Alone *Row `json:"alone,omitempty"`
}

// Latency has percentiles in ns.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
}

// competitor is the state of one peer in a job.
type competitor struct {
	peer     peer.Peer
	job      peer.Job
	patience time.Duration
	worker   peer.Worker
	n        int       // operations of a turn
	op       []float64 // in ns, by round; 0: not measured
	each     stats.Histogram
	allocs   *float64
	other    *float64 // allocations in the other process
	err      error
}

// Job measures the peers that support the job. In each round every peer has a turn
// of about the same length, and another for the job alone, if it has a disturbance.
// Each round begins with another peer, and every second
// round runs backwards, so that no peer always follows the same one. A peer that
// fails has no results, and the others continue. Job returns an error only if ctx
// has ended.
func Job(ctx context.Context, peers []peer.Peer, job peer.Job, opt Options) (Table, error) {
	var all []*competitor
	defer func() {
		for _, c := range all {
			c.close()
		}
	}()
	jobs := []peer.Job{job}
	if job.HasAlone() {
		jobs = append(jobs, job)
		jobs[1].Alone = true
	}
	for _, p := range peers {
		if !p.Does(job) {
			continue
		}
		for _, job := range jobs {
			if ctx.Err() != nil {
				return Table{}, context.Cause(ctx)
			}
			opt.Progress(fmt.Sprintf("%s: %s", job, p.Name()))
			c := &competitor{peer: p, job: job, patience: cmp.Or(opt.Patience, peer.Patience),
				op: make([]float64, opt.Rounds)}
			all = append(all, c)
			c.fail(c.open(ctx))
			c.fail(c.calibrate(opt.Turn))
			c.fail(c.countAllocs())
		}
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
	t := Table{Job: job}
	for _, c := range all {
		if c.job.Alone {
			continue // it is a part of another row
		}
		floor := slices.IndexFunc(all, func(other *competitor) bool {
			if job.HasAlone() {
				return other.peer.Name() == c.peer.Name() && other.job.Alone
			}
			return other.peer.Name() == peer.Floor
		})
		row := c.row()
		if floor >= 0 {
			if ratios := stats.Ratios(c.op, all[floor].op); len(ratios) > 0 && row.Error == "" {
				row.Ratio = stats.SpreadOf(ratios)
			}
			if job.HasAlone() {
				alone := all[floor].row()
				row.Alone, row.Error = &alone, cmp.Or(row.Error, alone.Error)
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (c *competitor) row() Row {
	if c.err != nil {
		return Row{Peer: c.peer.Name(), Error: c.err.Error()}
	}
	row := Row{Peer: c.peer.Name(), Allocs: c.allocs, OtherAllocs: c.other,
		Op: stats.SpreadOf(slices.Clone(c.op))}
	if c.job.Work == peer.RoundTrip || c.job.Work == peer.Beside {
		row.Latency = &Latency{c.each.Percentile(50), c.each.Percentile(90),
			c.each.Percentile(99), c.each.Percentile(99.9)}
	}
	return row
}

func (c *competitor) open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	c.worker, err = c.peer.Open(ctx, c.job)
	return err
}

// fail keeps the first error and closes the competitor.
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

// run does n operations. It closes a competitor that hangs.
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

// calibrate sets the number of operations in a turn. On a busy machine the number
// can be too low; turn corrects it.
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

// lengthen increases the number of operations if this turn was too short.
func (c *competitor) lengthen(took peer.Took, turn time.Duration) {
	c.n = max(c.n, int(float64(c.n)*float64(turn)/float64(max(took.Total, turn/100))))
}

// countAllocs counts the allocations of a few turns in both processes. It keeps the
// lowest of three counts, because the runtime allocates too.
func (c *competitor) countAllocs() error {
	if c.job.HasAlone() {
		return nil // other work allocates meanwhile
	}
	const few = 500
	n := max(c.n, min(few, 10*c.n))
	for range 3 {
		var before, after runtime.MemStats
		first, err := c.otherAllocs()
		if err != nil {
			return err
		}
		otherBefore, err := c.otherAllocs()
		if err != nil {
			return err
		}
		runtime.ReadMemStats(&before)
		took, err := c.run(n)
		if err != nil {
			return err
		}
		runtime.ReadMemStats(&after)
		otherAfter, err := c.otherAllocs()
		if err != nil {
			return err
		}
		if took.Elsewhere {
			return nil
		}
		least(&c.allocs, float64(after.Mallocs-before.Mallocs)/float64(n))
		if otherAfter > 0 {
			asking := float64(otherBefore - first) // what an answer allocates
			least(&c.other, max(0, float64(otherAfter-otherBefore)-asking)/float64(n))
		}
	}
	return nil
}

// otherAllocs returns 0 if the number is unknown.
func (c *competitor) otherAllocs() (uint64, error) {
	counter, ok := c.worker.(peer.AllocCounter)
	if !ok {
		return 0, nil
	}
	n, err := counter.OtherAllocs()
	if errors.Is(err, peer.ErrNoAllocs) {
		return 0, nil
	}
	return n, err
}

func least(to **float64, x float64) {
	if *to == nil || x < **to {
		*to = &x
	}
}

// turn measures one turn. Before that it does a tenth of the operations without
// measuring, because the turn before has left garbage and cold caches.
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
