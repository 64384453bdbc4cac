package transport

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// sendQueue is the line of those who send on a channel. The first in it leads: it alone writes. With its own
// frame it writes those of others behind it when all are small, and they need only wait; then the
// first of those who are left leads. So a sender that is alone meets nobody, and senders in a crowd share
// their system calls. Each sender keeps the memory of its own frame, so what waits is bounded by who waits.
//
// After a write for several nobody leads until all whom it was for have run: they are most likely to come with their next
// message, and a leader that did not wait for them would write two or three frames at a time. They are runnable, so that this
// takes some microseconds, and no timer ends it. Where it takes milliseconds, as others compute on all processors, it is left for a while.
type sendQueue struct {
	mu          sync.Mutex // guards what follows and the places in the queue; held for moments, and never over a write
	first, end  *place
	interrupted bool      // the write deadline was moved into the past by somebody who gave up
	err         error     // what every further send returns
	gathering   bool      // nobody leads until rousing is 0
	since       time.Time // when that began
	apart       time.Time // until then nobody is waited for
	alone       int       // leads in a row that met nobody
	aloneSince  time.Time // when the first of them began

	rousing atomic.Int32 // how many were woken as their frames were over, and have not run yet; grows only under mu
}

// A wait for a crowd that took longer than tooLong is not repeated for apartFactor times as long as it took.
const (
	tooLong     = 5 * time.Millisecond // half a turn of the scheduler's, less than which few machines are late by
	apartFactor = 8
)

// manyAlone leads that met nobody within fastAlone: about what as many system calls take.
const (
	manyAlone = 32
	fastAlone = 500 * time.Microsecond
)

// place is one sender's place in the queue. Its sender owns it, but for what the queue guards.
type place struct {
	buf   bytes.Buffer // for frame, unless that is somebody else's
	frame []byte       // whole frames, or one frame's header when body follows
	body  []byte       // is not copied
	last  bool         // a goodbye: nothing may follow it

	wake chan struct{} // of capacity 1; tells a sender that waits that it leads or is done

	// Guarded by the queue.
	prev, next *place
	state      placeState
	sent       int   // bytes that the kernel has
	reason     error // why its sender gave up while a write was under way with it, or nil
	err        error // the outcome when it is done
}

type placeState uint8

const (
	waiting placeState = iota // for its turn
	taken                     // the write under way includes it, and another leads
	leading                   // its sender is the one who writes
	done                      // it is in no queue any more
)

// places holds those that nobody uses, each with an empty wake and the memory in which a frame is put together: before
// its sender takes its place in the queue, so that senders encode side by side and a value that cannot be
// encoded disturbs nobody.
var places = sync.Pool{New: func() any { return &place{wake: make(chan struct{}, 1)} }}

// recycle gives a place back that is done and whose wake is empty.
func (p *place) recycle() {
	if p.buf.Cap() > maxKept {
		p.buf = bytes.Buffer{}
	}
	p.buf.Reset()
	*p = place{wake: p.wake, buf: p.buf}
	places.Put(p)
}

func (p *place) size() int { return len(p.frame) + len(p.body) }

// combines tells whether the frame may be written together with those of others.
func (p *place) combines() bool { return p.body == nil && len(p.frame) <= maxCopied && !p.last }

// push makes p the last in the queue.
func (q *sendQueue) push(p *place) {
	if q.end == nil {
		q.first, q.end = p, p
		if !q.gathering {
			p.state = leading
		}
		return
	}
	p.prev, q.end.next, q.end = q.end, p, p
}

// remove takes p out with its outcome.
func (q *sendQueue) remove(p *place, err error) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		q.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		q.end = p.prev
	}
	p.prev, p.next, p.state, p.err = nil, nil, done, err
}

// take marks what one write is to hold, from the first on, and returns the last of it. What lies between does
// not change until the write has ended.
func (q *sendQueue) take() (last *place) {
	last = q.first
	if last.combines() {
		size := last.size() - last.sent
		for next := last.next; next != nil && next.combines() && size+next.size() <= maxCombined; next = next.next {
			size += next.size()
			next.state = taken
			last = next
		}
	}
	return last
}

// pass lets the first who is left lead, and adds it to those who are to be woken.
func (q *sendQueue) pass(over *ended) {
	if next := q.first; next != nil {
		next.state = leading
		over.lead = next
	}
}

// meet is called when p begins to lead. After manyAlone leads that met nobody, and came fast, it lets other goroutines run before p
// takes whom it writes for: they may want to send too. A sender that never waits would keep a processor, and so them, until the
// peer's buffer is full or the scheduler ends its turn, some milliseconds with a system call for each message. One that
// pauses between its messages, as for an answer, does not get here.
func (q *sendQueue) meet(p *place) {
	if p.next != nil {
		q.alone = 0
		return
	}
	if q.alone++; q.alone == 1 {
		q.aloneSince = time.Now()
	}
	if q.alone < manyAlone {
		return
	}
	q.alone = 0
	now := time.Now()
	if now.Sub(q.aloneSince) > fastAlone || now.Before(q.apart) {
		return
	}
	q.mu.Unlock()
	runtime.Gosched()
	q.mu.Lock()
	q.waited(now)
}

// waited notes since when others were waited for.
func (q *sendQueue) waited(since time.Time) {
	if now := time.Now(); now.Sub(since) > tooLong {
		q.apart = now.Add(apartFactor * now.Sub(since))
	}
}

// gather begins to wait for those whom a write was for, of whom rousing have not run, if that is worth it.
func (q *sendQueue) gather(rousing int32) {
	if rousing > 0 {
		q.since = time.Now()
		q.gathering = q.since.After(q.apart)
	}
}

// roused counts a sender that was woken because its frame is over. The last of them lets the next one lead.
func (q *sendQueue) roused() {
	if q.rousing.Add(-1) > 0 {
		return
	}
	var over ended
	q.mu.Lock()
	if q.gathering {
		q.gathering = false
		q.pass(&over)
		q.waited(q.since)
	}
	q.mu.Unlock()
	over.wake()
}

// wait waits until p leads, then it returns true, or is done.
func (c *Channel) wait(ctx context.Context, p *place) (leads bool) {
	if ended := ctx.Done(); ended == nil {
		<-p.wake
	} else {
		select {
		case <-p.wake:
		case <-ended:
			if c.leave(ctx, p) {
				return false
			}
			<-p.wake // at once: the write returns, or has returned
		}
	}
	if p.state == leading {
		return true
	}
	c.wr.queue.roused()
	return false
}

// leave takes p, whose sender gives up, out of the queue. When a write is under way with it, or when it is not p's to
// leave any more, somebody is about to wake it, and leave returns false.
func (c *Channel) leave(ctx context.Context, p *place) (left bool) {
	q := &c.wr.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	switch p.state {
	case waiting:
		q.remove(p, newContextError(ctx))
		return true
	case taken:
		p.reason = newContextError(ctx)
		q.interrupted = true
		c.conn.SetWriteDeadline(aLongTimeAgo)
	}
	return false
}

// lead writes, in the turn of p, until the frame of p is over. It is called with the queue locked, and unlocks it.
func (c *Channel) lead(ctx context.Context, p *place) error {
	q := &c.wr.queue
	q.meet(p)
	for {
		if err := c.refuse(ctx, p); err != nil {
			var over ended
			q.remove(p, err)
			q.pass(&over)
			q.mu.Unlock()
			over.wake()
			if p.sent > 0 { // its frame was cut, and nobody goes on with it
				c.shut()
			}
			return err
		}
		last := q.take()
		q.mu.Unlock()
		n, err := c.writeOut(ctx, p, last)
		q.mu.Lock()
		over, broke := c.book(ctx, p, last, n, err)
		rousing := q.rousing.Add(over.n)
		if p.state == done {
			if err == nil { // else what comes next may be the rest of a frame
				q.gather(rousing)
			}
			if !q.gathering {
				q.pass(&over)
			}
		}
		q.mu.Unlock()
		over.wake()
		if broke {
			c.shut()
		}
		if p.state == done {
			return p.err
		}
		q.mu.Lock()
	}
}

// refuse tells why p, whose turn it is, must not write.
func (c *Channel) refuse(ctx context.Context, p *place) error {
	q := &c.wr.queue
	switch {
	case p.sent == 0 && c.closing.Load() && !p.last:
		return ErrClosed
	case q.err != nil:
		return q.err
	case ctx.Err() == nil:
		return nil
	case p.sent == 0:
		return newContextError(ctx)
	}
	q.err = ErrBroken
	return broken(p.sent, newContextError(ctx))
}

// book notes a write, of which the kernel took n bytes, for all whom it was for: the places from the
// first, which is that of lead, to last.
func (c *Channel) book(ctx context.Context, lead, last *place, n int, err error) (over ended, broke bool) {
	q := &c.wr.queue
	interrupted := q.interrupted
	if interrupted {
		q.interrupted = false
		c.conn.SetWriteDeadline(time.Time{}) // if lead's own context has ended too, that shows below
	}
	remove := func(p *place, err error) {
		q.remove(p, err)
		if p != lead {
			over.add(p)
		}
	}
	for {
		p := q.first
		if left := p.size() - p.sent; err != nil && n < left {
			p.sent += n
			break
		} else {
			n -= left
		}
		remove(p, nil)
		if p == last {
			return over, false
		}
	}
	timeout := isTimeout(err)
	switch {
	case !timeout && c.closing.Load() && !lead.last:
		q.err = ErrClosed
	case !timeout:
		q.err = netError(err)
	case !c.wr.plain:
		q.err = ErrBroken // what has been written nobody knows
	}
	for p, next := q.first, (*place)(nil); ; p = next {
		next = p.next
		reason := p.reason
		if p == lead {
			switch {
			case !timeout:
				reason = q.err
			case ctx.Err() != nil:
				reason = newContextError(ctx)
			case !interrupted:
				reason = err // somebody else has set a deadline
			}
		} else {
			p.state = waiting
		}
		switch {
		case reason == nil:
		case !timeout && p.sent > 0:
			remove(p, q.err)
		case timeout && (p.sent > 0 || !c.wr.plain):
			q.err = ErrBroken
			remove(p, broken(p.sent, reason))
		default:
			remove(p, reason)
		}
		if p == last {
			return over, timeout && q.err != nil
		}
	}
}

// ended is whom to wake when the queue is not locked any more.
type ended struct {
	first, end *place // those who are done, by next
	n          int32  // how many they are
	lead       *place // who leads now, if anybody
}

func (e *ended) add(p *place) {
	e.n++
	if e.end == nil {
		e.first = p
	} else {
		e.end.next = p
	}
	e.end = p
}

func (e *ended) wake() {
	for p := e.first; p != nil; {
		next := p.next // p is its sender's once it is woken
		p.next = nil
		p.wake <- struct{}{}
		p = next
	}
	if e.lead != nil {
		e.lead.wake <- struct{}{} // last, so that the others have a start
	}
}

// broken is the error of the send that ended in the middle of its frame.
func broken(n int, reason error) error {
	return fmt.Errorf("%w after %d bytes: %w", ErrBroken, n, reason)
}
