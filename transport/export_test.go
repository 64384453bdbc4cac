package transport

import "context"

// Senders returns how many sends have begun and not ended.
func (c *Channel) Senders() int {
	c.wr.queue.mu.Lock()
	defer c.wr.queue.mu.Unlock()
	n := 0
	for p := c.wr.queue.first; p != nil; p = p.next {
		n++
	}
	return n
}

// Turn is a reader's turn.
type Turn struct{ turn }

// NewTurn returns one that nobody has.
func NewTurn() *Turn { return &Turn{newTurn()} }

// Take waits for it.
func (t *Turn) Take(ctx context.Context, closed <-chan struct{}) error { return t.take(ctx, closed) }

// Give ends it.
func (t *Turn) Give() { t.give() }

// Count returns how many have it or wait for it.
func (t *Turn) Count() int { return int(t.count.Load()) }
