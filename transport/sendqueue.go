package transport

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/internal/neterr"
)

// sendQueue has the sends of a channel in the order of their calls. Each send is a
// place, and the first place leads: its sender writes, and no other does. One write
// takes the leader's frame and the small frames after it. When the leader's own frame
// is done, the first of the remaining places leads.
//
// After a write for several senders the queue gathers: no place leads until those
// senders have run, because they will probably come with their next message. If this
// takes too long, because others use all processors, the queue does without it for a
// while. docs/design/004 has the reasons.
//
// Lock rules:
//
//   - mu guards the fields below it, and the second half of each place in the queue.
//     It is not held over a write or a wait.
//   - A place is its sender's alone before push, and when its state is done.
//   - The sender of the leading place may use the writer. It gives that right up
//     under mu.
//   - During a write the places from the leading one to the last taken one stay in the
//     queue, so the leader may read their frames without mu.
type sendQueue struct {
	mu          sync.Mutex
	first, end  *place
	err         error // of every further send
	interrupted bool  // a sender other than the leader has set the write deadline to the past

	// Gathering.
	gathering bool      // no place leads until rousing is 0
	since     time.Time // the beginning of that
	apart     time.Time // no gathering until then
	alone     int       // places in a row that led an otherwise empty queue
	aloneFrom time.Time // the time of the first of them

	// senders that were woken, with their frames done, and have not run; it grows only under mu
	rousing atomic.Int32
}

// If gathering takes longer than tooLong, there is none for apartFactor times as long.
// tooLong is half a time slice of the scheduler.
const (
	tooLong     = 5 * time.Millisecond
	apartFactor = 8
)

// After manyAlone places have led alone within fastAlone, the next one yields. A sender
// that makes manyAlone system calls without a pause takes about fastAlone.
const (
	manyAlone = 32
	fastAlone = 500 * time.Microsecond
)

// place is one send in a sendQueue.
type place struct {
	// The sender's.
	buf    bytes.Buffer       // the memory of frame, unless that is a batch's
	frame  []byte             // whole frames, or a frame's header if body follows
	body   []byte             // the caller's memory
	last   bool               // a goodbye, which ends the sending side
	enters bool               // a frame of the program, before which the ring may begin
	large  bool               // one message that may travel through shared memory
	ref    [refFrameSize]byte // the frame of such a message
	wake   chan struct{}      // of capacity 1: the place leads or is done

	// The queue's, see sendQueue.
	prev, next *place
	state      placeState
	sent       int   // bytes that the kernel has
	reason     error // why the sender's context ended during a write of the place, or nil
	err        error // the result when the state is done
}

type placeState uint8

const (
	waiting placeState = iota
	taken              // the write under way includes it, and another place leads
	leading
	done // it is not in the queue
)

// places has unused places. Each has an empty wake, and the memory for a frame: a
// sender encodes before it comes to the queue, so senders encode side by side.
var places = sync.Pool{New: func() any { return &place{wake: make(chan struct{}, 1)} }}

// recycle gives a place back that is done or was never in the queue.
func (p *place) recycle() {
	if p.buf.Cap() > maxKept {
		p.buf = bytes.Buffer{}
	}
	p.buf.Reset()
	*p = place{wake: p.wake, buf: p.buf}
	places.Put(p)
}

func (p *place) unsent() int { return len(p.frame) + len(p.body) - p.sent }

// combines reports whether one write may have p and other places.
func (p *place) combines() bool { return p.body == nil && len(p.frame) <= maxCopied && !p.last }

// push adds p at the end of the queue.
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

// remove takes p out of the queue and sets its result.
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

// take marks the places for one write and returns the last of them.
func (q *sendQueue) take() (last *place) {
	last = q.first
	if !last.combines() {
		return last
	}
	size := last.unsent()
	for next := last.next; next != nil && next.combines() &&
		size+next.unsent() <= maxCombined; next = next.next {
		size += next.unsent()
		next.state = taken
		last = next
	}
	return last
}

// pass makes the first place lead, and adds it to the places to wake.
func (q *sendQueue) pass(w *wakeups) {
	if next := q.first; next != nil {
		next.state = leading
		w.lead = next
	}
}

// yieldIfAlone is called when p begins to lead. If many places have led alone in a
// short time, it lets other goroutines run, because they may want to send too. Else a
// sender that never waits would make one system call for each message until the
// scheduler stops it. It unlocks and locks q.mu.
func (q *sendQueue) yieldIfAlone(p *place) {
	if p.next != nil {
		q.alone = 0
		return
	}
	if q.alone++; q.alone == 1 {
		q.aloneFrom = time.Now()
	}
	if q.alone < manyAlone {
		return
	}
	q.alone = 0
	now := time.Now()
	if now.Sub(q.aloneFrom) > fastAlone || now.Before(q.apart) {
		return
	}
	q.mu.Unlock()
	runtime.Gosched()
	q.mu.Lock()
	q.gathered(now)
}

// gather begins to gather if senders were woken and it is worth while.
func (q *sendQueue) gather(rousing int32) {
	if rousing > 0 {
		q.since = time.Now()
		q.gathering = q.since.After(q.apart)
	}
}

// gathered records that gathering began at since and ended now.
func (q *sendQueue) gathered(since time.Time) {
	if now := time.Now(); now.Sub(since) > tooLong {
		q.apart = now.Add(apartFactor * now.Sub(since))
	}
}

// roused counts a woken sender whose place is done. The last one ends the gathering.
func (q *sendQueue) roused() {
	if q.rousing.Add(-1) > 0 {
		return
	}
	var w wakeups
	q.mu.Lock()
	if q.gathering {
		q.gathering = false
		q.pass(&w)
		q.gathered(q.since)
	}
	q.mu.Unlock()
	w.wake()
}

// waitInQueue waits until p is done or leads. It reports whether p leads.
func (c *Channel) waitInQueue(ctx context.Context, p *place) (leads bool) {
	if over := ctx.Done(); over == nil {
		<-p.wake
	} else {
		select {
		case <-p.wake:
		case <-over:
			if c.leave(ctx, p) {
				return false
			}
			<-p.wake // soon, because the write was interrupted or has ended
		}
	}
	if p.state == leading {
		return true
	}
	c.wr.queue.roused()
	return false
}

// leave takes p out of the queue when its sender's context has ended. It returns false
// if p leads, is done, or is part of the write under way, which leave interrupts. Then
// another goroutine wakes p.
func (c *Channel) leave(ctx context.Context, p *place) (left bool) {
	q := &c.wr.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	switch p.state {
	case waiting:
		q.remove(p, neterr.Context(ctx))
		return true
	case taken:
		p.reason = neterr.Context(ctx)
		q.interrupted = true
		c.setWriteDeadline(aLongTimeAgo)
	}
	return false
}

// lead writes until p, which leads, is done, and returns its result. The caller has
// locked the queue, and lead unlocks it.
func (c *Channel) lead(ctx context.Context, p *place) error {
	q := &c.wr.queue
	if c.wr.ring == nil { // in a ring a message takes no system call
		q.yieldIfAlone(p)
	}
	for {
		if err := c.mayWrite(ctx, p); err != nil {
			c.retire(p, err)
			if p.sent > 0 { // p's frame was cut, and nobody writes the rest
				c.shut()
			}
			return err
		}
		last := q.take()
		q.mu.Unlock()
		n, err := c.writeOut(ctx, p, last)
		q.mu.Lock()
		w, cut := c.record(ctx, p, last, n, err)
		rousing := q.rousing.Add(w.n)
		if p.state == done {
			if err == nil { // after an error the next write may be the rest of a frame
				q.gather(rousing)
			}
			if !q.gathering {
				q.pass(&w)
			}
		}
		q.mu.Unlock()
		w.wake()
		if cut {
			c.shut()
		}
		if p.state == done {
			return p.err
		}
		q.mu.Lock()
	}
}

// mayWrite returns nil, or why p, which leads, must not write.
func (c *Channel) mayWrite(ctx context.Context, p *place) error {
	q := &c.wr.queue
	switch {
	case p.sent == 0 && c.closing.Load() && !p.last:
		return ErrChannelClosed
	case q.err != nil:
		return q.err
	case ctx.Err() == nil:
		return nil
	case p.sent == 0:
		return neterr.Context(ctx)
	}
	q.err = ErrBroken
	return cutError(p.sent, neterr.Context(ctx))
}

// record records the result of a write for its places, which are those from lead to
// last: the kernel took n bytes, and err may be nil. It returns the places to wake, and
// whether a frame was cut. The caller has locked the queue.
func (c *Channel) record(
	ctx context.Context, lead, last *place, n int, err error,
) (w wakeups, cut bool) {
	q := &c.wr.queue
	interrupted := q.interrupted
	if interrupted {
		q.interrupted = false
		c.setWriteDeadline(time.Time{})
	}
	remove := func(p *place, err error) {
		q.remove(p, err)
		if p != lead {
			w.add(p)
		}
	}
	for {
		p := q.first
		if unsent := p.unsent(); err == nil || n >= unsent {
			n -= unsent
		} else {
			p.sent += n
			break
		}
		remove(p, nil)
		if p == last {
			return w, false
		}
	}
	timeout := isTimeout(err)
	switch {
	case timeout && !c.wr.plain:
		q.err = ErrBroken // the connection does not report how much it wrote
	case timeout:
	case c.closing.Load() && !lead.last:
		q.err = ErrChannelClosed
	default:
		q.err = c.netError(err)
	}
	for p, next := q.first, (*place)(nil); ; p = next {
		next = p.next
		reason := p.reason
		if p == lead {
			reason = c.leadersReason(ctx, err, interrupted)
		} else {
			p.state = waiting
		}
		switch {
		case reason == nil: // it stays in the queue
		case !timeout && p.sent > 0:
			remove(p, q.err)
		case timeout && (p.sent > 0 || !c.wr.plain):
			q.err = ErrBroken
			remove(p, cutError(p.sent, reason))
		default:
			remove(p, reason)
		}
		if p == last {
			return w, timeout && q.err != nil
		}
	}
}

// leadersReason returns why the leader's send ends after a write failed with err. It
// returns nil if the context of another place interrupted the write.
func (c *Channel) leadersReason(ctx context.Context, err error, interrupted bool) error {
	switch {
	case !isTimeout(err):
		return c.wr.queue.err
	case ctx.Err() != nil:
		return neterr.Context(ctx)
	case interrupted:
		return nil
	}
	return err // the caller set a deadline on the connection
}

// wakeups has the places to wake when the queue is unlocked.
type wakeups struct {
	first, end *place // those that are done, linked by next
	n          int32  // how many they are
	lead       *place // the new leader, or nil
}

func (w *wakeups) add(p *place) {
	w.n++
	if w.end == nil {
		w.first = p
	} else {
		w.end.next = p
	}
	w.end = p
}

func (w *wakeups) wake() {
	for p := w.first; p != nil; {
		next := p.next // before the wake, because p is its sender's then
		p.next = nil
		p.wake <- struct{}{}
		p = next
	}
	if w.lead != nil {
		w.lead.wake <- struct{}{} // last, so that the others run first
	}
}

// cutError is the error of a send that ended within its frame.
func cutError(n int, reason error) error {
	return fmt.Errorf("%w after %d bytes: %w", ErrBroken, n, reason)
}
