package transport

import (
	"context"
	"sync"
	"time"
)

// turn is the right to read, or to write, which one goroutine has at a time. It is a channel and not
// a mutex because it is held over blocking input and output, so whoever waits for it must be able to
// give up.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn until the context ends or closed does.
func (t turn) take(ctx context.Context, closed <-chan struct{}) error {
	select {
	case t <- struct{}{}:
		return nil
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return newContextError(ctx)
	case <-closed:
		return ErrClosed
	}
}

func (t turn) give() { <-t }

// aLongTimeAgo is a deadline that has passed: setting it makes a blocked call return at once.
var aLongTimeAgo = time.Unix(1, 0)

// interrupter makes a blocked read, or write, return when a context ends, by moving the connection's
// deadline into the past. It stays armed between calls with the same context, so that a loop which
// passes one context pays once and not for each message.
type interrupter struct {
	setDeadline func(time.Time) error

	mu     sync.Mutex      // guards what follows; held only for moments, and never while fire runs
	done   <-chan struct{} // of the context that it is armed for; nil when disarmed
	stop   func() bool     // unregisters fire
	fired  chan struct{}   // closed by fire when the deadline is set
	closed bool
}

// arm makes ctx the one whose end interrupts. Only the holder of the turn calls it, with no call
// on the connection under way.
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
	fired := make(chan struct{})
	i.done, i.fired = done, fired
	i.stop = context.AfterFunc(ctx, func() {
		i.setDeadline(aLongTimeAgo)
		close(fired)
	})
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
	i.done, i.stop, i.fired = nil, nil, nil
}

// close disarms for good.
func (i *interrupter) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.disarm()
	i.closed = true
}
