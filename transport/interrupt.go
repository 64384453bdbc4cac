package transport

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/internal/neterr"
)

// aLongTimeAgo is a deadline in the past, which makes a blocked call return.
var aLongTimeAgo = time.Unix(1, 0)

// interrupter makes a blocked read or write return when a context ends, by setting
// the connection's deadline to aLongTimeAgo. docs/design/006 explains why it is
// armed only before a call that may block, and stays armed for a context that comes
// twice in a row.
//
// The goroutine that reads, or writes, calls the methods. Any goroutine may call
// close.
type interrupter struct {
	setDeadline func(time.Time) error

	mu       sync.Mutex      // guards the rest; fire does not take it
	armed    <-chan struct{} // Done of the context that it is armed for, or nil
	last     <-chan struct{} // Done of the context that armed it last
	repeated bool            // that context armed it twice in a row
	stop     func() bool     // unregisters fire
	fire     func()
	fired    chan struct{} // of capacity 1; fire sends after it has set the deadline
	woken    bool          // by wake; the deadline stays in the past until rested
	closed   bool
}

// wake makes the blocked call, or the next one, return with a timeout.
func (i *interrupter) wake() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.closed {
		i.woken = true
		i.setDeadline(aLongTimeAgo)
	}
}

// rested reports whether wake was called, and undoes it.
func (i *interrupter) rested() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.woken {
		return false
	}
	i.woken = false
	i.setDeadline(time.Time{})
	return true
}

// arm makes the end of ctx interrupt the connection.
func (i *interrupter) arm(ctx context.Context) {
	done := ctx.Done()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.armed == done || i.closed {
		return
	}
	i.disarmLocked()
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
	i.repeated = i.last == done
	i.armed, i.last = done, done
	i.stop = context.AfterFunc(ctx, i.fire)
}

// disarmUnlessFor disarms if it is armed for another context than ctx.
func (i *interrupter) disarmUnlessFor(ctx context.Context) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.armed != ctx.Done() && !i.closed {
		i.disarmLocked()
	}
}

// disarmUnlessRepeated disarms after a call, unless the same context will probably
// come again.
func (i *interrupter) disarmUnlessRepeated() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.repeated {
		i.disarmLocked()
	}
}

// disarmEnded takes back a deadline in the past. The caller calls it when no other
// goroutine reads.
func (i *interrupter) disarmEnded() {
	i.rested()
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.armed: // blocks if it is nil
		i.disarmLocked()
	default:
	}
}

func (i *interrupter) disarm() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.disarmLocked()
}

// close disarms for good.
func (i *interrupter) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.disarmLocked()
	i.closed = true
}

// disarmLocked forgets the context. If the context has ended, it also takes the
// deadline back.
func (i *interrupter) disarmLocked() {
	if i.armed == nil {
		return
	}
	if !i.stop() {
		<-i.fired // at once, because fire has run or runs now, and does not block
		if !i.woken {
			i.setDeadline(time.Time{})
		}
	}
	i.armed, i.stop = nil, nil
}

// turn is the right to read from a channel. One goroutine holds it at a time, and
// waiting goroutines get it in the order of their calls. It is not a mutex, because
// it is held over blocking reads, and a waiting goroutine can end its wait.
type turn struct {
	count  atomic.Int32  // the goroutines that have the turn or wait for it
	passed chan struct{} // of capacity 1: the turn on its way to a waiting goroutine
}

func newTurn() turn { return turn{passed: make(chan struct{}, 1)} }

// take waits for the turn until ctx ends or closed is closed.
func (t *turn) take(ctx context.Context, closed <-chan struct{}) error {
	if t.count.Add(1) == 1 {
		return nil
	}
	select {
	case <-t.passed:
		return nil
	case <-ctx.Done():
		t.leave()
		return neterr.Context(ctx)
	case <-closed:
		t.leave()
		return ErrChannelClosed
	}
}

func (t *turn) give() {
	if t.count.Add(-1) > 0 {
		t.passed <- struct{}{}
	}
}

// leave ends the wait of a goroutine that does not want the turn any more. If no
// other goroutine is counted, the last holder is giving the turn to this one. Then
// leave waits for the turn and releases it.
func (t *turn) leave() {
	for {
		if n := t.count.Load(); n > 1 {
			if t.count.CompareAndSwap(n, n-1) {
				return
			}
			continue
		}
		select {
		case <-t.passed:
			t.give()
			return
		default:
			runtime.Gosched() // the holder is in give, between its two steps
		}
	}
}
