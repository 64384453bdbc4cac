package transport

import (
	"context"
	"sync"
	"time"
)

// aLongTimeAgo is a deadline that has passed: setting it makes a blocked call return at once.
var aLongTimeAgo = time.Unix(1, 0)

// interrupter makes a blocked read, or write, return when a context ends, by moving the connection's
// deadline into the past. To be told of a context's end costs more than a message does, so it is
// armed only where a call may block. When the same context has armed it twice in a row it stays armed: a loop that
// passes one context pays no more. For contexts that come once it is disarmed after the call, as it would
// cost a goroutine when they are cancelled.
type interrupter struct {
	setDeadline func(time.Time) error

	mu     sync.Mutex      // guards what follows; held only for moments, and never while fire runs
	done   <-chan struct{} // of the context that it is armed for; nil when disarmed
	last   <-chan struct{} // of the context that armed it last
	again  bool            // that one armed it before, too
	stop   func() bool     // unregisters fire
	fire   func()
	fired  chan struct{} // of capacity 1; fire sends when the deadline is set
	closed bool
}

// keep disarms unless it is armed for ctx. Like arm and rest only the holder of the turn calls it; arm also in the call on the
// connection, before that waits.
func (i *interrupter) keep(ctx context.Context) {
	done := ctx.Done()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done != done && !i.closed {
		i.disarm()
	}
}

// arm makes ctx the one whose end interrupts.
func (i *interrupter) arm(ctx context.Context) {
	done := ctx.Done()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done == done || i.closed {
		return
	}
	i.disarm()
	if done == nil {
		return
	}
	if i.fire == nil {
		i.fired = make(chan struct{}, 1)
		i.fire = func() {
			i.setDeadline(aLongTimeAgo)
			i.fired <- struct{}{}
		}
	}
	i.again = i.last == done
	i.done, i.last = done, done
	i.stop = context.AfterFunc(ctx, i.fire)
}

// rest disarms after a call unless the same context is likely to come again.
func (i *interrupter) rest() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.again {
		i.disarm()
	}
}

// leave disarms after a call with a context that ends before the connection does, as a handshake's.
func (i *interrupter) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.disarm()
}

// disarm forgets the context; when that had ended already it takes its deadline back.
func (i *interrupter) disarm() {
	if i.done == nil {
		return
	}
	if !i.stop() {
		<-i.fired // it runs now or has run: setting a deadline does not block
		i.setDeadline(time.Time{})
	}
	i.done, i.stop = nil, nil
}

// close disarms for good.
func (i *interrupter) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.disarm()
	i.closed = true
}
