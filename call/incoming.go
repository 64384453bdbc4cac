package call

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// incoming is a call that the peer has opened. It is in theirs of its connection
// until its result is queued.
type incoming struct {
	exchange
	h       *handler
	ctx     handlerContext
	given   context.Context // to the handler: ctx, or what Trace.Began has returned for it
	running bool            // the handler was started
	ended   bool            // the result is queued
}

// handler is what a Mux has for a method.
type handler struct {
	name string
	one  bool         // the caller sends one message, and the handler starts with it
	slow atomic.Int32 // above 0, the handler gets a goroutine of its own; see slowRuns
	// run calls the user's function. If it succeeds, its result may have a message.
	run func(x *incoming) (*encoded, error)
}

func newIncoming(c *Conn, id uint64, h *handler, timeout time.Duration) *incoming {
	x := &incoming{h: h}
	x.c, x.id = c, id
	x.in.granted, x.out.credit = c.window, c.peer.window
	x.ctx.base, x.given = c.base, &x.ctx
	if timeout > 0 {
		x.ctx.deadline = time.Now().Add(timeout)
	}
	x.in.demand = h != nil && h.one
	if c.cfg.Trace != nil && h != nil {
		x.trace = &traced{
			ctx: &x.ctx, began: time.Now(), event: Event{Method: h.name, Incoming: true},
		}
	}
	return x
}

// begin returns x if its handler is to be run now, and else nil.
func (x *incoming) begin() *incoming {
	if x.running || x.ended || x.h.one && len(x.in.ready) == 0 {
		if x.h.one && x.in.end && !x.ended && !x.running {
			x.refuse(&Error{Code: CodeInvalid, Text: "a call without its message"})
		}
		return nil
	}
	x.running, x.in.demand = true, false // a Stream sets demand again
	return x
}

// isLarge reports whether the request has come in parts. The reader does not decode it,
// because small calls would wait.
func (x *incoming) isLarge() bool { return x.h.one && len(x.in.ready[0].b) > maxPart }

// cancelled handles the caller's request to end the call.
func (x *incoming) cancelled(request cancellation) {
	err := error(&CancelError{By: request.by, Reason: request.reason})
	if request.code == CodeDeadline {
		if !x.ctx.deadline.IsZero() && x.running {
			return // its own timer ends it
		}
		err = context.DeadlineExceeded
	}
	if !x.running {
		x.refuse(err)
		return
	}
	x.ctx.end(err)
}

// refuse ends a call whose handler does not run.
func (x *incoming) refuse(err error) {
	x.c.queue(head{opResult, flagError, x.id}, encodeError(err, ""))
	x.remove()
}

// remove ends the call. Its result is queued.
func (x *incoming) remove() {
	x.ended, x.over = true, true
	for _, m := range x.in.ready {
		m.recycle()
	}
	x.in.ready = nil
	x.drop()
	delete(x.c.theirs, x.id)
	x.c.signalIfIdle()
}

// run runs the handler of x and queues its result.
func (c *Conn) run(x *incoming) {
	if t := x.trace; t != nil {
		t.start()
		t.begin(c.cfg.Trace)
		x.given = t.ctx
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		value := recover()
		stack := debug.Stack()
		if value == nil {
			x.exited(&Error{Code: CodePanic, Text: "the handler called runtime.Goexit"})
			return
		}
		x.exited(&Error{
			Code: CodePanic, Text: fmt.Sprintf("panic: %v", value), Stack: string(stack),
		})
		if c.cfg.OnPanic == nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c.mu.Lock()
			c.waitWritten(ctx)
			c.mu.Unlock()
			panic(value)
		}
		c.cfg.OnPanic(x.h.name, value, stack)
	}()
	e, err := x.h.run(x)
	returned = true
	x.end(e, err)
}

// exited ends a call whose handler has not returned.
func (x *incoming) exited(err error) {
	c := x.c
	defer c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	x.endTrace(err)
	x.refuse(err)
	x.ctx.end(context.Canceled)
	if c.reading.inline == x {
		c.leaveRole() // the goroutine may end
	}
	c.flushLocked(quick)
}

// end queues the result of the handler. A large message is sent before.
func (x *incoming) end(e *encoded, err error) {
	c := x.c
	c.mu.Lock()
	if err == nil && x.out.cut {
		err = context.Canceled
	}
	if err == nil && e != nil {
		err = x.sendResult(e)
	} else if err == nil {
		c.queue(head{opResult, 0, x.id})
	}
	if err != nil {
		canceler := ""
		if c.base.Err() != nil { // this process was stopped
			canceler = c.self
		}
		c.queue(head{opResult, flagError, x.id}, encodeError(err, canceler))
	}
	x.endTrace(err)
	x.remove()
	c.mu.Unlock()
	c.report()
	x.ctx.end(context.Canceled)
	e.recycle()
}

// sendResult queues the result with its message. It waits for the credit of a large
// message. After an error nothing is queued.
func (x *incoming) sendResult(e *encoded) error {
	c := x.c
	if n := len(e.message()); n <= maxPart && x.hasCredit(n) {
		x.out.charge(n)
		c.queueEncoded(head{opResult, flagValue, x.id}, e.buf.Bytes())
		return nil
	}
	if err := x.send(&x.ctx, e, 0); err != nil {
		return err
	}
	c.queue(head{opResult, 0, x.id})
	return nil
}
