package call

import (
	"context"
	"errors"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
)

// reading has the role of the reader: the right to receive on the channel. Only one
// goroutine at a time has the role. docs/design/200 explains the roles.
//
//   - A goroutine in a wait takes the role if no other goroutine reads, and reads
//     until its own event has come. Then it gives the role to the next in a wait.
//   - A worker is a goroutine of the Conn. It reads when nobody waits. When it receives
//     a call, it runs the handler at once and keeps the role.
//   - Any wait may take the role if it lies idle, or its worker is in a handler. If
//     none does within a tick, another worker takes it.
type reading struct {
	role   role
	inline *incoming // the call in its handler, with roleHandler
	seq    uint64    // counts the changes of role

	reader  *waiter // of the goroutine in Next; nil if it is a worker or there is none
	waiting waitList
	offered *waiter   // was woken to take the role, and does not run yet
	idle    []*worker // without work, last come first served

	watch   *time.Timer // calls tick
	ticking bool
	seen    uint64 // seq at the last tick
	quiet   int    // ticks in a row without a change

	result    bool      // the result of a call has come since a worker last looked
	delivered time.Time // when a worker last looked and found one
	served    bool      // a call of the peer has come since then
	active    int       // ticks until the peer counts as one that makes no calls
}

type role uint8

const (
	roleFree    role = iota // nobody reads
	roleReading             // a goroutine reads, or is about to
	roleHandler             // a worker runs a handler, and will read again if it still can
)

const (
	// tickTime is how often a busy connection looks for an idle role. If a handler
	// runs longer, another worker reads.
	tickTime = 500 * time.Microsecond
	// slowTime is when a handler in a goroutine of its own is slow.
	slowTime = 50 * time.Microsecond
	// slowRuns is how many times in a row a method must be fast in a goroutine of
	// its own, after it was slow, before the reader runs its handler again.
	slowRuns = 16
	// activeTicks is how long a call of the peer makes more of them probable.
	activeTicks = 20
	// quietTicks is after how many ticks without a change the ticking stops.
	quietTicks = 20
	// closeResults is how close together results must come for a worker to leave
	// the role to the caller. It will probably call again.
	closeResults = 500 * time.Microsecond
	maxIdle      = 8
)

// setRole changes the role.
func (c *Conn) setRole(r role) {
	rd := &c.reading
	rd.role = r
	rd.inline = nil
	rd.seq++
	if r != roleReading {
		c.startTicking()
	}
}

func (c *Conn) startTicking() {
	if rd := &c.reading; !rd.ticking && c.state == stateOpen {
		rd.ticking, rd.quiet = true, 0
		rd.watch.Reset(tickTime)
	}
}

// leaveRole gives the role to the first goroutine in a wait. If there is none, and
// the peer makes calls, a worker gets it.
func (c *Conn) leaveRole() {
	c.setRole(roleFree)
	if rd := &c.reading; rd.active > 0 && rd.waiting.empty() && c.mayRead() {
		c.setRole(roleReading)
		c.startWorker(nil)
		return
	}
	c.offerRole()
}

// offerRole wakes the first goroutine in a wait if the role is free, unless another
// is on its way to it.
func (c *Conn) offerRole() {
	rd := &c.reading
	if rd.role != roleReading && rd.offered == nil && c.mayRead() {
		rd.offered = rd.waiting.wakeFirst()
	}
}

// mayRead reports whether there is something to read, and room for it.
func (c *Conn) mayRead() bool { return c.state == stateOpen && !c.messages.full() }

// tick has a worker take over the role if it was idle, or in a handler, since the
// last tick.
func (c *Conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	rd := &c.reading
	if c.state != stateOpen {
		rd.ticking = false
		return
	}
	switch changed := rd.seen != rd.seq; {
	case changed:
		rd.quiet = 0
	case rd.role == roleReading || !c.mayRead():
		rd.quiet++
	default:
		rd.quiet = 0
		if rd.inline != nil {
			rd.inline.h.slow.Store(slowRuns)
		}
		c.setRole(roleReading)
		c.startWorker(nil)
	}
	rd.seen = rd.seq
	rd.active = max(0, rd.active-1)
	if rd.quiet < quietTicks {
		rd.watch.Reset(tickTime)
	} else {
		rd.ticking = false
	}
}

// end wakes the idle workers, so that they return.
func (rd *reading) end(c *Conn) {
	rd.watch.Stop()
	for _, w := range rd.idle {
		close(w.jobs)
	}
	rd.idle = nil
}

// waitLocked waits until w is signalled or the connection is dead, and returns nil.
// If ctx ends before, it returns the error of ctx. If no other goroutine reads, this
// one does meanwhile. The caller has locked mu. It is unlocked during the wait.
func (c *Conn) waitLocked(ctx context.Context, w *waiter) error {
	w.ready = false
	for !w.ready && c.state != stateDead {
		if ctx.Err() != nil {
			c.offerRole()
			return neterr.Context(ctx)
		}
		if c.reading.role != roleReading && c.mayRead() {
			c.setRole(roleReading)
			c.readFor(ctx, w)
			c.leaveRole()
			continue
		}
		c.reading.waiting.add(w)
		c.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
		c.mu.Lock()
		c.reading.waiting.remove(w)
		if c.reading.offered == w {
			c.reading.offered = nil
		}
	}
	c.offerRole()
	return nil
}

// readFor reads until w is signalled, ctx ends, or nothing can be read. It also
// handles the frames that have arrived with the last one. So it wakes all whose
// results have come before another goroutine reads. The caller has the role.
func (c *Conn) readFor(ctx context.Context, w *waiter) {
	for more := false; (more || !w.ready) && c.mayRead(); {
		if !more {
			c.flushLocked(quick)
			if w.ready || !c.mayRead() {
				return
			}
		}
		x, m, ok := c.readOne(ctx, w)
		if !ok {
			return
		}
		if more = m; x != nil {
			c.startWorker(x)
		}
	}
}

// readOne reads a frame and handles it. It returns a call if its handler is to be
// run, and reports whether another frame has arrived.
func (c *Conn) readOne(ctx context.Context, w *waiter) (x *incoming, more, ok bool) {
	c.reading.reader = w
	c.mu.Unlock()
	f, more, err := c.frames.Next(ctx)
	c.mu.Lock()
	c.reading.reader = nil
	switch {
	case errors.Is(err, frame.ErrWoken):
		return nil, false, true
	case err != nil && ctx.Err() != nil:
		return nil, false, false
	case err != nil:
		c.failLocked(err)
		return nil, false, false
	case c.state != stateOpen:
		return nil, false, false
	}
	x, err = c.dispatch(f)
	if len(c.endings) > 0 {
		c.mu.Unlock()
		c.report()
		c.mu.Lock()
	}
	if err != nil {
		c.failLocked(&protocolError{err})
		return nil, false, false
	}
	return x, more, true
}

// worker is a goroutine of a Conn.
type worker struct {
	jobs chan *incoming // of capacity 1; nil has the worker read
}

// startWorker has a worker run the handler of x, or read if x is nil. Then the
// caller has set the role for it.
func (c *Conn) startWorker(x *incoming) {
	rd := &c.reading
	if n := len(rd.idle); n > 0 {
		w := rd.idle[n-1]
		rd.idle = rd.idle[:n-1]
		w.jobs <- x
		return
	}
	if c.state == stateOpen {
		c.work.Go(func() { c.runWorker(x) })
	}
}

// runWorker runs the handler of x, or reads. Then it waits for more to do.
func (c *Conn) runWorker(x *incoming) {
	w := &worker{jobs: make(chan *incoming, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		reads := x == nil
		if x != nil {
			c.runTimed(x)
			c.flushLocked(quick)
			if reads = c.reading.role == roleFree && c.mayRead(); reads {
				c.setRole(roleReading)
			}
		}
		if reads {
			c.serve()
		}
		if c.state != stateOpen || len(c.reading.idle) >= maxIdle {
			return
		}
		c.reading.idle = append(c.reading.idle, w)
		c.mu.Unlock()
		next, open := <-w.jobs
		c.mu.Lock()
		if !open {
			return
		}
		x = next
	}
}

// runUnlocked runs the handler of x without mu.
func (c *Conn) runUnlocked(x *incoming) {
	c.mu.Unlock()
	defer c.mu.Lock()
	c.run(x)
}

// runTimed is runUnlocked for a handler in a goroutine of its own.
func (c *Conn) runTimed(x *incoming) {
	slow := &x.h.slow
	if slow.Load() == 0 {
		c.runUnlocked(x)
		return
	}
	began := time.Now()
	c.runUnlocked(x)
	if time.Since(began) >= slowTime {
		slow.Store(slowRuns)
	} else {
		slow.Add(-1)
	}
}

// serve reads, and runs the handlers of received calls, until it has lost the role or
// leaves it.
func (c *Conn) serve() {
	rd := &c.reading
	more := false
	for c.mayRead() {
		if !more {
			c.flushLocked(quick)
			if c.leavesToCaller() || !c.mayRead() {
				break
			}
		}
		x, m, ok := c.readOne(c.reads, nil)
		if !ok {
			break
		}
		if more = m; x == nil {
			continue
		}
		rd.served = true
		if x.h.slow.Load() > 0 || x.isLarge() {
			c.startWorker(x)
			continue
		}
		c.setRole(roleHandler)
		rd.inline = x
		c.runUnlocked(x)
		if rd.role != roleHandler || rd.inline != x {
			c.flushLocked(quick)
			return
		}
		c.setRole(roleReading)
	}
	c.leaveRole()
}

// leavesToCaller reports whether a worker should leave the role. It should if it has
// just received results, because their caller will probably call again.
func (c *Conn) leavesToCaller() bool {
	rd := &c.reading
	if !rd.result {
		return false
	}
	rd.result = false
	now := time.Now()
	leaves := now.Sub(rd.delivered) < closeResults && !rd.served && rd.waiting.empty()
	rd.delivered, rd.served = now, false
	return leaves
}
