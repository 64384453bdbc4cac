package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spareName is the name of a spare in logs and errors before it has a spec.
const spareName = "spare"

const (
	// minSparePause and maxSparePause bound the pause after a failure of a
	// spare. It doubles with each failure.
	minSparePause = 100 * time.Millisecond
	maxSparePause = 30 * time.Second
	// sparePeace is the time without a failure after which the pause starts
	// at its minimum again. It is also the least time between two lines of
	// the log about failures.
	sparePeace = time.Minute
)

// maxSpareStarts bounds the starts of spares in progress.
var maxSpareStarts = min(4, runtime.GOMAXPROCS(0))

// spares keeps children started that wait for their spec. Its methods may be
// called concurrently. Those of a nil spares do nothing.
type spares struct {
	s    *Spawner
	want int
	wg   sync.WaitGroup // its goroutines; all start before the Spawner's last boot ends

	mu      sync.Mutex // guards what follows; never held over input, output or a wait
	closed  bool
	idle    []*spare      // oldest first
	stopped []*Child      // returned by dismiss
	dying   int           // dead spares whose failure is not recorded yet; they are not replaced
	workers int           // goroutines; each starts one spare after the other
	changed chan struct{} // closed, and replaced, when AwaitSpares must look again

	failures int
	err      error         // the last failure
	failedAt time.Time     // when it was
	pause    time.Duration // from the last failure to the next start
	until    time.Time     // no start before
	loggedAt time.Time     // when a failure was last logged
}

// spare is a child that waits for its spec.
type spare struct {
	*Child
	x    *handshake.Expected
	runs func() bool // reports whether the process neither has ended nor is stopped; may be nil
}

func newSpare(c *Child, x *handshake.Expected) *spare {
	sp := &spare{Child: c, x: x}
	if p, ok := c.proc.(osProcess); ok {
		sp.runs = p.Runs
	}
	return sp
}

func newSpares(s *Spawner) *spares {
	return &spares{s: s, want: s.cfg.Spares, changed: make(chan struct{})}
}

// AwaitSpares waits until all of Config.Spares are started and wait for their spec.
// With MethodForkserver it waits for the template first; see
// [Spawner.AwaitTemplate]. It returns nil at once if there are no spares.
//
// If a spare cannot be started or dies while waiting, AwaitSpares returns that
// error at once, a [*BootError] or an [*ExitError]. The Spawner continues to
// retry, and a later AwaitSpares makes it retry without a pause. Otherwise the
// error is that of ctx, or matches [ErrSpawnerClosed].
func (s *Spawner) AwaitSpares(ctx context.Context) error {
	r := s.spares
	if r == nil {
		return nil
	}
	if _, err := s.forks.ready(ctx, &s.cfg.Command); err != nil {
		return prefixed("await spares", err)
	}
	r.retry()
	r.mu.Lock()
	for before := r.failures; ; r.mu.Lock() {
		changed, closed, full, err := r.changed, r.closed, len(r.idle) >= r.want, error(nil)
		if r.failures > before {
			err = r.err
		}
		r.mu.Unlock()
		switch {
		case closed:
			return prefixed("await spares", ErrSpawnerClosed)
		case full, err != nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return prefixed("await spares", wait.Cause(ctx))
		}
	}
}

// announce wakes all waits for a change. The caller holds r.mu.
func (r *spares) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// refill begins to start the missing spares.
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

// work starts one spare after the other until there are enough.
func (r *spares) work() {
	for {
		r.mu.Lock()
		if r.closed || r.s.ctx.Err() != nil || len(r.idle)+r.dying+r.workers > r.want {
			r.workers--
			r.mu.Unlock()
			return
		}
		pause, changed := time.Until(r.until), r.changed
		r.mu.Unlock()
		if pause > 0 {
			wait.For(r.s.ctx, changed, pause)
			continue
		}
		if err := r.s.newBoot(r.s.ctx, r.s.options(), spawnspec.Spec{Name: spareName},
			&r.s.quiet).runSpare(); err != nil {
			r.failed(err)
		}
	}
}

// add adds a spare that waits for its spec.
func (r *spares) add(sp *spare) {
	r.mu.Lock()
	// also if closed, because dismiss is called again after the last boot
	r.idle = append(r.idle, sp)
	r.announce()
	r.mu.Unlock()
	sp.callOnExit(func() {
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

// remove removes an idle spare and adds to dying. It reports whether the spare
// was still idle.
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

// take removes and returns the newest usable spare, or nil. The newest one has
// most of its memory in the processors' caches. take ends spares that have closed
// their connection.
func (r *spares) take() *spare {
	r.mu.Lock()
	idle := slices.Clone(r.idle)
	r.mu.Unlock()
	for _, sp := range slices.Backward(idle) {
		switch {
		// ended, or stopped by SIGSTOP for now
		case wait.Closed(sp.exited), sp.runs != nil && !sp.runs():
		case !r.remove(sp, 0): // another call has taken it
		case sp.x.Internal(access.Key{}).Waiting() == nil:
			r.wg.Go(func() { r.lost(sp) })
		default:
			return sp
		}
	}
	return nil
}

// lost ends a spare that has failed, and starts another.
func (r *spares) lost(sp *spare) {
	r.failed(r.end(sp))
	r.refill()
}

// end ends an unusable spare and returns the reason.
func (r *spares) end(sp *spare) error {
	died := sp.awaitExit(r.s.ctx, dyingBound) // the connection can end a moment before the process
	if !died {
		sp.kill()
		sp.awaitExit(context.Background(), killBound) // if this fails, Close returns an error
	}
	err := error(sp.exitError(nil))
	if !died {
		err = fmt.Errorf("forkspawn: %s (pid %d): %w", spareName, sp.PID(), errSpareCut)
	}
	sp.x.Cancel()
	sp.peer.Abort()
	sp.release()
	return err
}

var errSpareCut = errors.New(
	"it has closed its connection, or said something, instead of waiting for its spec")

// discard ends a spare and does not wait for its end.
func (r *spares) discard(sp *spare) {
	r.wg.Go(func() { r.end(sp) })
}

// failed records the failure of a spare, and delays the next start.
func (r *spares) failed(err error) {
	if r.s.ctx.Err() != nil {
		return // the Spawner is closed
	}
	now := time.Now()
	r.mu.Lock()
	if now.Sub(r.failedAt) > sparePeace {
		r.pause = 0
	}
	if !now.Before(r.until) { // otherwise several have failed together
		r.pause = min(max(2*r.pause, minSparePause), maxSparePause)
		r.until = now.Add(r.pause)
	}
	r.failures++
	r.err, r.failedAt = err, now
	level, pause := slog.LevelDebug, r.pause
	if now.Sub(r.loggedAt) > sparePeace {
		level, r.loggedAt = slog.LevelWarn, now
	}
	r.announce()
	r.mu.Unlock()
	r.s.report.spareFailed(level, err, pause)
}

// retry ends the pause.
func (r *spares) retry() {
	r.mu.Lock()
	r.pause, r.until = 0, time.Time{}
	r.announce()
	r.mu.Unlock()
	r.refill()
}

// worked ends the pause when a child of the same command has become ready.
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

// dismiss closes r, and removes and returns all idle spares. The caller stops
// them.
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
	r.stopped = append(r.stopped, list...)
	r.announce()
	return list
}

// dismissed returns all spares that dismiss has returned so far.
func (r *spares) dismissed() []*Child {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stopped)
}

// list returns the spares that wait for their spec.
func (r *spares) list() (idle []*Child) {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sp := range r.idle {
		idle = append(idle, sp.Child)
	}
	return idle
}

// wait waits for the goroutines. The last boot has ended before.
func (r *spares) wait() {
	if r != nil {
		r.wg.Wait()
	}
}

// equal reports whether two commands start the same process.
func (c *Command) equal(d *Command) bool {
	return c.Path == d.Path && c.Launcher == d.Launcher && c.NewSession == d.NewSession &&
		c.TicketOnStdin == d.TicketOnStdin && c.Connections == d.Connections && c.Sys == d.Sys &&
		c.Releasable == d.Releasable &&
		same(c.Args, d.Args) &&
		same(c.Env, d.Env) && (c.Env == nil) == (d.Env == nil) &&
		maps.Equal(c.Files, d.Files)
}

// same is slices.Equal, but at once for one and the same slice.
func same(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// serves reports whether a spare can be the child of a boot.
func (r *spares) serves(b *boot) bool {
	return r != nil && b.spec.Dir == "" && !b.ownStreams && b.cmd.equal(&r.s.cfg.Command)
}
