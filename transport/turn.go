package transport

import (
	"context"
	"runtime"
	"sync/atomic"
)

// turn is the right to read, which one goroutine has at a time; those who wait get it in the order in which they came. It is
// no mutex because it is held over blocking input and output, so whoever waits for it must be able to give up. When nobody waits,
// to take it and to give it are one addition each; a channel alone would cost 25 ns more for each message.
type turn struct {
	count  atomic.Int32  // of who has it, or is about to get it, and who waits
	passed chan struct{} // of capacity 1: the turn on its way to one who waits
}

func newTurn() turn { return turn{passed: make(chan struct{}, 1)} }

// take waits for the turn until the context ends or closed does.
func (t *turn) take(ctx context.Context, closed <-chan struct{}) error {
	if t.count.Add(1) == 1 {
		return nil
	}
	select {
	case <-t.passed:
		return nil
	case <-ctx.Done():
		t.leave()
		return newContextError(ctx)
	case <-closed:
		t.leave()
		return ErrClosed
	}
}

func (t *turn) give() {
	if t.count.Add(-1) > 0 {
		t.passed <- struct{}{}
	}
}

// leave ends the wait of one who gives up. When nobody else is counted the turn is on its way to the leaver, who passes it on.
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
			runtime.Gosched() // whoever gives has counted, and sends it next
		}
	}
}
