package call

import (
	"context"
	"time"
)

// Trace is a set of functions for the events of calls, like those of
// forkspawn.Trace. Metrics and spans can be built on it. Each function may be nil.
//
// The functions are called from the goroutine of the event, and concurrently for
// several calls. They must return soon, and must not make calls. ctx is the context of
// the caller or of the handler. [MetadataOf] has its metadata, such as a traceparent.
type Trace struct {
	// Began is called when this side begins a call, before the call waits for its
	// turn. For a call of the peer it is called before the handler. A call that the
	// Conn refuses, for example because there is no such method, has no event.
	Began func(ctx context.Context, e Event)

	// Ended is called when the result has come or the connection has ended, so it
	// may come after the caller has given up with ErrStillRunning. For a call of
	// the peer it is called when the handler has returned.
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
}

// traced is the trace of one call.
type traced struct {
	ctx     context.Context
	event   Event
	began   time.Time
	started time.Time // when the call was sent, or its handler ran; zero before
}

// traceCall reports the beginning of a call. It returns nil without a Trace. The
// caller has not locked mu.
func (c *Conn) traceCall(ctx context.Context, method string) *traced {
	if c.cfg.Trace == nil {
		return nil
	}
	t := &traced{ctx: ctx, began: time.Now(), event: Event{Method: method}}
	t.report(c.cfg.Trace.Began)
	return t
}

func (t *traced) report(f func(context.Context, Event)) {
	if f != nil {
		f(t.ctx, t.event)
	}
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
	t.event.Err = err
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
		t.report(c.cfg.Trace.Ended)
	}
}
