package transport

import (
	"context"
	"time"
)

// SetCloseTimeout sets closeTimeout until restore is called.
func SetCloseTimeout(d time.Duration) (restore func()) {
	old := closeTimeout
	closeTimeout = d
	return func() { closeTimeout = old }
}

// Senders returns the number of sends under way.
func (c *Channel) Senders() int {
	c.wr.queue.mu.Lock()
	defer c.wr.queue.mu.Unlock()
	n := 0
	for p := c.wr.queue.first; p != nil; p = p.next {
		n++
	}
	return n
}

// Turn exports turn.
type Turn struct{ turn }

func NewTurn() *Turn { return &Turn{newTurn()} }

func (t *Turn) Take(ctx context.Context, closed <-chan struct{}) error {
	return t.take(ctx, closed)
}

func (t *Turn) Give() { t.give() }

// Count returns the number of goroutines with the turn, or waiting for it.
func (t *Turn) Count() int { return int(t.count.Load()) }
