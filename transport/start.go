package transport

import (
	"context"

	"github.com/spawnwire/spawnwire/internal/frame"
)

// Next implements frame.Channel.
func (f frames) Next(ctx context.Context) (next frame.Frame, more bool, err error) {
	defer wrap("receive", &err)
	c := f.c
	if err := c.startReceive(ctx); err != nil {
		return frame.Frame{}, false, err
	}
	defer c.rd.turn.give()
	if err = c.nextOfProgram(ctx); err == nil {
		next.Body, err = c.wholeBody(ctx)
	}
	if err != nil {
		if isTimeout(err) && ctx.Err() == nil && c.rd.intr.rested() {
			err = frame.ErrWoken
		}
		return frame.Frame{}, false, err
	}
	next.Kind = c.rd.kind
	c.rd.lend()
	return next, c.rd.hasFrame(), nil
}

// Wake implements frame.Channel.
func (f frames) Wake() { f.c.rd.intr.wake() }

// Start implements frame.Channel.
func (f frames) Start(encoded []byte) (rest frame.Pending, err error) {
	c := f.c
	p := places.Get().(*place)
	p.frame, p.enters = encoded, true
	q := &c.wr.queue
	q.mu.Lock()
	q.push(p)
	if p.state != leading || c.wr.raw == nil {
		leads := p.state == leading
		q.mu.Unlock()
		return &started{c, p, leads}, nil
	}
	if err := c.mayWrite(context.Background(), p); err != nil {
		c.retire(p, err)
		return nil, c.startError(p)
	}
	q.mu.Unlock()
	c.beginRing()
	n, err := c.wr.writeNow(encoded)
	q.mu.Lock()
	if err == nil && n < len(encoded) {
		p.sent = n
		q.mu.Unlock()
		return &started{c, p, true}, nil
	}
	w, _ := c.record(context.Background(), p, p, n, err)
	if p.state != done { // letGo has interrupted the write, and p still leads
		q.mu.Unlock()
		return &started{c, p, true}, nil
	}
	q.pass(&w)
	q.mu.Unlock()
	w.wake()
	return nil, c.startError(p)
}

// retire takes the leading p out of the queue with its error. It unlocks the queue.
func (c *Channel) retire(p *place, err error) {
	var w wakeups
	q := &c.wr.queue
	q.remove(p, err)
	q.pass(&w)
	q.mu.Unlock()
	w.wake()
}

// startError returns the result of p and recycles it. p is done.
func (c *Channel) startError(p *place) (err error) {
	defer wrap("send", &err)
	err = p.err
	p.recycle()
	return err
}

// writeNow writes as much of p as the socket takes without waiting.
func (wr *writer) writeNow(p []byte) (int, error) {
	wr.noWait = true
	defer func() { wr.noWait = false }()
	return wr.write(context.Background(), p)
}

// started implements frame.Pending.
type started struct {
	c     *Channel
	p     *place
	leads bool // p has led the queue since Start
}

func (s *started) Finish() error {
	if s.leads || s.c.waitInQueue(context.Background(), s.p) {
		s.c.wr.queue.mu.Lock()
		s.c.lead(context.Background(), s.p)
	}
	return s.c.startError(s.p)
}
