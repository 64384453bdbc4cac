package call

import (
	"context"
	"time"
)

// Trace is a set of functions for the events of calls, like those of
// forkspawn.Trace. Metrics and spans can be built on it. Each function may be nil.
//
// The functions are called from the goroutine of the event, and concurrently for
// several calls. They must return soon, and must not make calls.
type Trace struct {
	// Began is called when this side begins a call, before the request is encoded.
	// For a call of the peer it is called before the handler. A call of the peer that
	// the Conn refuses, for example because there is no such method, has no event.
	//
	// ctx is the context of the caller or of the handler. Began returns ctx, or a
	// context derived from it for this call; nil means ctx. The peer gets the
	// metadata of the returned context (see [WithMetadata]), and a handler runs with
	// it. The caller's own context still decides when its call is cancelled.
	Began func(ctx context.Context, e Event) context.Context

	// Ended is called when the result has come or the connection has ended, so it
	// may come after the caller has given up with ErrStillRunning. For a call of
	// the peer it is called when the handler has returned. ctx is the context that
	// Began has returned. Each call of Began is followed by one of Ended.
	Ended func(ctx context.Context, e Event)
}

// Event has the state of a call.
type Event struct {
	Method   string
	Incoming bool // the peer's call

	Queued time.Duration // until the call was sent, or its handler ran

	// For Ended.
	Ran      time.Duration // from then on
	Sent     int64         // bytes of the messages that this side has sent
	Received int64         // bytes of the messages that this side has received
	Err      error         // of a call that has failed
	Code     Code          // of Err, as the caller gets it
}

// traced is the trace of one call.
type traced struct {
	ctx     context.Context
	event   Event
	began   time.Time
	started time.Time // when the call was sent, or its handler ran; zero before
}

// traceCall reports the beginning of a call, and returns the context with the call's
// metadata. Without a Trace it returns ctx and nil. The caller has not locked mu.
func (c *Conn) traceCall(ctx context.Context, method string) (context.Context, *traced) {
	if c.cfg.Trace == nil {
		return ctx, nil
	}
	t := &traced{ctx: ctx, began: time.Now(), event: Event{Method: method}}
	t.begin(c.cfg.Trace)
	return t.ctx, t
}

// begin calls Trace.Began, and takes the context that it returns.
func (t *traced) begin(trace *Trace) {
	if trace.Began == nil {
		return
	}
	if ctx := trace.Began(t.ctx, t.event); ctx != nil {
		t.ctx = ctx
	}
}

// unsent reports the end of a call that could not be encoded, and returns its error.
func (c *Conn) unsent(t *traced, err error) error {
	if t != nil {
		c.mu.Lock()
		c.endTrace(t, err)
		c.mu.Unlock()
		c.report()
	}
	return err
}

// start records that the call was sent, or that its handler is about to run.
func (t *traced) start() {
	if t != nil {
		t.started = time.Now()
		t.event.Queued = t.started.Sub(t.began)
	}
}

// endTrace records the end of a call that began with traceCall. The caller has locked
// mu, and calls report after it.
func (c *Conn) endTrace(t *traced, err error) {
	if t == nil {
		return
	}
	now := time.Now()
	if t.started.IsZero() {
		t.event.Queued = now.Sub(t.began)
	} else {
		t.event.Ran = now.Sub(t.started)
	}
	if t.event.Err = err; err != nil {
		t.event.Code = toError(err).Code
	}
	c.endings = append(c.endings, t)
}

// endTrace is endTrace of the Conn for a call that was sent, or has a handler.
func (x *exchange) endTrace(err error) {
	if t := x.trace; t != nil {
		t.event.Sent = int64(x.out.sent) - overhead*x.out.count
		t.event.Received = int64(x.in.received) - overhead*x.in.count
		x.trace = nil
		x.c.endTrace(t, err)
	}
}

// report calls Trace.Ended for the calls that have ended. The caller has not locked mu.
func (c *Conn) report() {
	if c.cfg.Trace == nil {
		return
	}
	c.mu.Lock()
	endings := c.endings
	c.endings = nil
	c.mu.Unlock()
	for _, t := range endings {
		if c.cfg.Trace.Ended != nil {
			c.cfg.Trace.Ended(t.ctx, t.event)
		}
	}
}
