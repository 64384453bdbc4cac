package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spareName is what a spare is called in logs and errors as long as it has no spec.
const spareName = "spare"

// The pause after spares could not be started, or died as they waited, doubles from one to the other. It begins anew
// when a child of the same command has become ready, or nothing has failed for a minute.
const (
	minSparePause = 100 * time.Millisecond
	maxSparePause = 30 * time.Second
	sparePeace    = time.Minute // also the least time between two lines of the log about it
)

// maxSpareStarts is how many spares are started at the same time.
var maxSpareStarts = min(4, runtime.GOMAXPROCS(0))

// spares keeps children ready that wait for their spec. Its methods may be called concurrently; those of a nil spares do
// nothing.
type spares struct {
	s    *Spawner
	want int
	wg   sync.WaitGroup // all goroutines of it; started before the last boot of the Spawner ends

	mu      sync.Mutex // guards what follows; never held over input, output or a wait
	closed  bool
	idle    []*spare      // oldest first
	left    []*Child      // that dismiss has returned
	dying   int           // that have died as they waited, which has not been noted as a failure yet: until then it has no pause
	workers int           // goroutines that start spares, one at a time each
	news    chan struct{} // closed, and replaced, when something has changed that a wait is for

	failures int
	err      error         // the last failure
	failedAt time.Time     // and when it was
	pause    time.Duration // between it and the next start
	until    time.Time     // no start before
	toldAt   time.Time     // when the log was last told of a failure
}

// spare is a child that waits for its spec.
type spare struct {
	*Child
	x    *handshake.Expected
	runs func() bool // tells whether the process runs; nil where that is not known
}

func newSpare(c *Child, x *handshake.Expected) *spare {
	sp := &spare{Child: c, x: x}
	if p, ok := c.proc.(interface{ runs() bool }); ok {
		sp.runs = p.runs
	}
	return sp
}

func newSpares(s *Spawner) *spares {
	return &spares{s: s, want: s.cfg.Spares, news: make(chan struct{})}
}

// Warm waits until all of Config.Spares wait for their spec. When one cannot be started, or dies as it waits, its error is
// returned at once, a [*BootError] or an [*ExitError], while the Spawner goes on to try; a later Warm tries without a pause. Other errors match ctx's, and
// [ErrClosed]. With no Spares it returns nil. With MethodForkserver it starts the template first, if there is none, and waits for its warm-up, which
// Config.BootTimeout does not bound here.
func (s *Spawner) Warm(ctx context.Context) error {
	if _, err := s.forks.ready(ctx, &s.cfg.Command); err != nil {
		return fmt.Errorf("forkspawn: warm: %w", err)
	}
	r := s.spares
	if r == nil {
		return nil
	}
	r.retry()
	r.mu.Lock()
	for before := r.failures; ; r.mu.Lock() {
		news, closed, full, err := r.news, r.closed, len(r.idle) >= r.want, error(nil)
		if r.failures > before {
			err = r.err
		}
		r.mu.Unlock()
		switch {
		case closed:
			return fmt.Errorf("forkspawn: warm: %w", ErrClosed)
		case full, err != nil:
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("forkspawn: warm: %w", contextError(ctx))
		}
	}
}

// announce wakes whoever waits for news. The caller holds r.mu.
func (r *spares) announce() {
	close(r.news)
	r.news = make(chan struct{})
}

// refill begins to start what is missing.
func (r *spares) refill() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.closed && r.workers < maxSpareStarts && len(r.idle)+r.dying+r.workers < r.want {
		r.workers++
		r.wg.Go(r.work)
	}
}

// work starts spares, one after the other, until there are enough.
func (r *spares) work() {
	for {
		r.mu.Lock()
		if r.closed || r.s.ctx.Err() != nil || len(r.idle)+r.dying+r.workers > r.want {
			r.workers--
			r.mu.Unlock()
			return
		}
		pause, news := time.Until(r.until), r.news
		r.mu.Unlock()
		if pause > 0 {
			awaitClosed(r.s.ctx, news, pause)
			continue
		}
		if err := r.s.newBoot(r.s.cfg.Command, spawnspec.Spec{Name: spareName}, &r.s.quiet).runSpare(); err != nil {
			r.failed(err)
		}
	}
}

// add takes in a spare that waits.
func (r *spares) add(sp *spare) {
	r.mu.Lock()
	r.idle = append(r.idle, sp) // also when closed: what has been let in is dismissed after the last boot
	r.announce()
	r.mu.Unlock()
	sp.callWhenGone(func() {
		if !r.remove(sp, 1) {
			return
		}
		r.failed(r.end(sp))
		r.mu.Lock()
		r.dying--
		r.mu.Unlock()
		r.refill()
	})
}

// remove takes a spare out, unless somebody has, and adds to the dying.
func (r *spares) remove(sp *spare, dying int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.idle, sp)
	if i < 0 {
		return false
	}
	r.idle = slices.Delete(r.idle, i, i+1)
	r.dying += dying
	return true
}

// take hands out the newest spare that can be used, or nil: of what it needs, most is still in the processors' caches. It gives up those
// that have cut their connection.
func (r *spares) take() *spare {
	r.mu.Lock()
	idle := slices.Clone(r.idle)
	r.mu.Unlock()
	for _, sp := range slices.Backward(idle) {
		switch {
		case isClosed(sp.gone), sp.runs != nil && !sp.runs(): // it has ended, or is stopped (SIGSTOP) for the time being
		case !r.remove(sp, 0): // another call was faster
		case !sp.x.Waits():
			r.wg.Go(func() { r.lost(sp) })
		default:
			return sp
		}
	}
	return nil
}

// lost ends a spare that has failed, and sees that another takes its place.
func (r *spares) lost(sp *spare) {
	r.failed(r.end(sp))
	r.refill()
}

// end ends a spare that is of no use, with nothing left of it, and returns why it is not.
func (r *spares) end(sp *spare) error {
	died := sp.awaitGone(r.s.ctx, dyingBound) // its connection may end a moment before it does
	if !died {
		sp.kill()
		sp.awaitGone(context.Background(), killBound) // one that no signal ends, Close tells of
	}
	err := error(sp.exitError(nil))
	if !died {
		err = fmt.Errorf("forkspawn: %s (pid %d): %w", spareName, sp.PID(), errSpareCut)
	}
	sp.x.Cancel()
	sp.peer.Abort()
	return err
}

var errSpareCut = errors.New("it has closed its connection, or said something, instead of waiting for its spec")

// discard ends a spare, which nobody waits for.
func (r *spares) discard(sp *spare) {
	r.wg.Go(func() { r.end(sp) })
}

// failed notes that a spare could not be had, and puts the next start off.
func (r *spares) failed(err error) {
	if r.s.ctx.Err() != nil {
		return // Close
	}
	now := time.Now()
	r.mu.Lock()
	if now.Sub(r.failedAt) > sparePeace {
		r.pause = 0
	}
	if !now.Before(r.until) { // else it is one of several that failed together
		r.pause = min(max(2*r.pause, minSparePause), maxSparePause)
		r.until = now.Add(r.pause)
	}
	r.failures++
	r.err, r.failedAt = err, now
	level, pause := slog.LevelDebug, r.pause
	if now.Sub(r.toldAt) > sparePeace {
		level, r.toldAt = slog.LevelWarn, now
	}
	r.announce()
	r.mu.Unlock()
	r.s.tell.spareFailed(level, err, pause)
}

// retry ends the pause.
func (r *spares) retry() {
	r.mu.Lock()
	r.pause, r.until = 0, time.Time{}
	r.announce()
	r.mu.Unlock()
	r.refill()
}

// worked is told of each child that has become ready: what failed before may work again.
func (r *spares) worked(b *boot) {
	if r == nil || !b.cmd.equal(&r.s.cfg.Command) {
		return
	}
	r.mu.Lock()
	paused := r.pause > 0
	r.mu.Unlock()
	if paused {
		r.retry()
	}
}

// dismiss takes out all idle spares, for good, and returns them for whoever stops them.
func (r *spares) dismiss() []*Child {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	var list []*Child
	for _, sp := range r.idle {
		list = append(list, sp.Child)
	}
	r.idle = nil
	r.left = append(r.left, list...)
	r.announce()
	return list
}

// dismissed returns what dismiss has returned so far.
func (r *spares) dismissed() []*Child {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.left)
}

// wait waits for the goroutines, when the last boot has ended.
func (r *spares) wait() {
	if r != nil {
		r.wg.Wait()
	}
}

// equal tells whether two commands start the same thing.
func (c *Command) equal(d *Command) bool {
	return c.Path == d.Path && same(c.Args, d.Args) && same(c.Env, d.Env) && (c.Env == nil) == (d.Env == nil)
}

// same is slices.Equal, which looks at each element of an environment also when that is one and the same.
func same(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
