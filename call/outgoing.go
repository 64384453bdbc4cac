package call

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/neterr"
)

// outgoing is a call that this side has opened. It is in ours of its connection
// until the result has come.
type outgoing struct {
	exchange
	method    string
	ctx       context.Context // with the call's metadata, for looks
	started   bool            // a started frame has come
	cancelled bool            // a cancel is queued
	done      bool            // the result has come
	err       *Error          // the result, if it is an error
}

var outgoingPool = sync.Pool{New: func() any { return new(outgoing) }}

// recycle gives the call back. It has ended, and no other goroutine knows it.
func (x *outgoing) recycle() {
	for _, m := range x.in.ready {
		m.recycle()
	}
	ready, in, out := x.in.ready[:0], x.in.w.wake, x.out.w.wake
	*x = outgoing{}
	x.in.ready, x.in.w.wake, x.out.w.wake = ready, in, out
	outgoingPool.Put(x)
}

// openLocked opens a call and sends its first message, which may be absent. It waits
// for the peer's hello and for a slot. After an error nothing was sent. The caller
// has locked mu, and recycles e when the call has ended.
func (c *Conn) openLocked(
	ctx context.Context, t *traced, method string, e *encoded, first flags,
) (*outgoing, error) {
	for ctx.Err() == nil && !c.mayOpen() {
		if err := c.waitForSlot(ctx, method); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil { // the first thing to look at: its end may be that of the connection
		return nil, contextError(ctx, method)
	}
	var left time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		if left = time.Until(deadline); left <= 0 {
			return nil, localError(method, CodeDeadline, context.DeadlineExceeded)
		}
	}
	payload := e.message()
	if uint64(len(payload)) > c.peer.message {
		return nil, localError(method, CodeTooLarge, fmt.Errorf(
			"a message of %d bytes; the peer's limit is %d", len(payload), c.peer.message))
	}
	x := outgoingPool.Get().(*outgoing)
	if x.ctx = ctx; t != nil {
		x.ctx = t.ctx
	}
	c.lastOurs++
	x.c, x.id, x.caller, x.method = c, c.lastOurs, true, method
	x.in.granted, x.out.credit = c.window, c.peer.window
	x.trace = t
	t.start()
	c.ours[x.id] = x
	e.setTimeout(left)
	h := head{opOpen, flagCaller | first, x.id}
	switch {
	case !first.has(flagValue):
		c.queueEncoded(h, e.withoutMessage())
	case len(payload) <= maxPart && x.hasCredit(len(payload)):
		x.out.charge(len(payload))
		c.queueEncoded(h, e.buf.Bytes())
	default:
		h.flags &^= flagValue | flagEnd
		c.queueEncoded(h, e.withoutMessage())
		if x.maySend(len(payload)) {
			x.queueParts(payload, first&flagEnd)
		} else {
			x.startSending(payload, first&flagEnd)
		}
	}
	return x, nil
}

// hasCredit reports whether a message of n bytes can be sent now.
func (x *exchange) hasCredit(n int) bool {
	return x.out.sent+overhead+uint64(n) <= x.out.credit
}

// mayOpen reports whether a call can be opened now.
func (c *Conn) mayOpen() bool {
	return c.state == stateOpen && c.peer != nil && !c.draining && !c.goneAway &&
		uint64(len(c.ours)) < min(c.peer.calls, uint64(c.cfg.MaxCalls))
}

// waitForSlot waits until mayOpen may have changed.
func (c *Conn) waitForSlot(ctx context.Context, method string) error {
	switch {
	case c.state == stateDead:
		return localError(method, CodeConnection, c.err)
	case c.draining, c.goneAway:
		return localError(method, CodeDraining, ErrDraining)
	}
	var w waiter
	c.slots.add(&w)
	err := c.waitLocked(ctx, &w)
	c.slots.remove(&w)
	if err != nil {
		return contextError(ctx, method)
	}
	return nil
}

// contextError is the error of a call whose context ended before the call was sent.
func contextError(ctx context.Context, method string) *Error {
	return localError(method, contextCode(ctx), neterr.Context(ctx))
}

func contextCode(ctx context.Context) Code {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return CodeDeadline
	}
	return CodeCanceled
}

// roundTrip makes a unary call and returns the call, which has ended with a message.
// The caller recycles it.
func (c *Conn) roundTrip(
	ctx context.Context, t *traced, method string, e *encoded,
) (*outgoing, error) {
	defer c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	x, err := c.openLocked(ctx, t, method, e, flagValue|flagEnd)
	if err != nil {
		c.endTrace(t, err)
		return nil, err
	}
	x.in.single, x.in.demand = true, true
	c.yieldLocked()
	c.flushLocked(quick)
	for !x.done && !x.in.second && c.state != stateDead {
		if err := c.waitLocked(ctx, &x.in.w); err != nil {
			x.cancelLocked(ctx)
			break
		}
	}
	if x.in.second {
		// The handler has a stream of replies, which might not end.
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(errSeveralMessages)
		x.cancelLocked(ctx)
		x.release()
		return nil, localError(method, CodeInvalid, errSeveralMessages)
	}
	if err := x.outcome(ctx); err != nil {
		x.release()
		return nil, err
	}
	if len(x.in.ready) == 0 {
		x.release()
		return nil, localError(method, CodeInvalid, errNoMessage)
	}
	return x, nil
}

var (
	errNoMessage       = errors.New("a result without a message")
	errSeveralMessages = errors.New("a result of several messages")
)

// end gives the memory of a call that has ended back. The caller does not use x
// after it.
func (x *outgoing) end() {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	x.release()
	c.flushLocked(quick) // maybe credit for another call
}

// release is end with mu locked. If the result has not come, the call stays in ours.
func (x *outgoing) release() {
	x.giveBack()
	if x.done {
		x.recycle()
	}
}

// sendCancel asks the callee to end the call, unless it has ended or was asked.
func (x *outgoing) sendCancel(ctx context.Context) {
	c := x.c
	x.dropSending()
	if x.cancelled || x.done {
		return
	}
	x.cancelled = true
	request := cancellation{code: contextCode(ctx), by: c.self, reason: neterr.Context(ctx).Error()}
	var earlier *CancelError
	if errors.As(context.Cause(ctx), &earlier) {
		request.by = earlier.By
	}
	c.queue(head{opCancel, flagCaller, x.id}, request.encode())
	c.flushLocked(quick)
}

// cancelLocked asks the callee to end the call, and waits for the result, but no
// longer than CancelGrace. After that the call counts as open until the result comes.
func (x *outgoing) cancelLocked(ctx context.Context) {
	c := x.c
	x.sendCancel(ctx)
	grace, cancel := context.WithTimeout(context.Background(), c.cfg.CancelGrace)
	defer cancel()
	var w waiter
	for !x.done && c.state != stateDead {
		x.ends.add(&w)
		err := c.waitLocked(grace, &w)
		x.ends.remove(&w)
		if err != nil {
			break
		}
	}
	if !x.done {
		x.abandon()
		c.flushLocked(quick) // maybe credit for another call
	}
}

// abandon drops what comes for the call from now on.
func (x *outgoing) abandon() {
	x.abandonMessages()
	x.dropSending()
}

func (x *outgoing) abandonMessages() {
	x.in.discard = true
	for _, m := range x.in.ready {
		m.recycle()
	}
	x.in.ready = nil
	x.leavePool()
}

// outcome returns nil if the call has ended with success. ctx is the caller's.
func (x *outgoing) outcome(ctx context.Context) error {
	switch {
	case x.done && x.err == nil:
		return nil
	case x.done:
		if ctx.Err() != nil && (x.err.Code == CodeCanceled || x.err.Code == CodeDeadline) {
			x.err.causes = append(x.err.causes, neterr.Context(ctx))
			if x.err.CanceledBy == "" {
				x.err.CanceledBy = x.c.self
			}
		}
		return x.err
	case x.c.state == stateDead:
		err := localError(x.method, CodeConnection, x.c.err)
		if ctx.Err() != nil {
			err.causes = append(err.causes, neterr.Context(ctx))
		}
		return err
	}
	err := contextError(ctx, x.method)
	err.Text += ": " + ErrStillRunning.Error()
	err.CanceledBy = x.c.self
	err.causes = append(err.causes, ErrStillRunning)
	return err
}

// finish handles the result.
func (x *outgoing) finish(h head, body []byte) (err error) {
	if h.has(flagError) {
		if x.err, err = parseError(x.method, body); err != nil {
			return fmt.Errorf("result: %w", err)
		}
	} else {
		if x.in.part != nil {
			return errors.New("a result within a message")
		}
		if err := x.receive(h, body); err != nil {
			return err
		}
	}
	c := x.c
	if x.trace != nil && x.err != nil {
		result := *x.err // because outcome adds causes
		x.endTrace(&result)
	}
	x.endTrace(nil)
	x.done, x.over, x.in.end = true, true, true
	x.drop()
	delete(c.ours, x.id)
	c.slots.signalFirst(c)
	c.signalIfIdle()
	c.reading.result = true
	x.signalAll()
	return nil
}

// signalIfIdle wakes Drain if there are no calls.
func (c *Conn) signalIfIdle() {
	if len(c.ours)+len(c.theirs) == 0 {
		c.idleWait.signalAll(c)
	}
}
