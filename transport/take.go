package transport

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"
)

// errUnreceived is the error of Take while a message or its rest waits.
var errUnreceived = errors.New("a message is not received yet")

// errSending is the error of Take during a send.
var errSending = errors.New("a send is in progress")

// errRing is the error of Take when the connection has no more messages.
var errRing = errors.New("the channel uses a ring")

// Take ends the channel and returns its connection, and the bytes that the channel
// has read ahead. Abort still closes the connection. A Close sends no goodbye.
func (f frames) Take(ctx context.Context) (conn net.Conn, ahead []byte, err error) {
	c := f.c
	defer wrap("take", &err)
	if err := c.startReceive(ctx); err != nil {
		return nil, nil, err
	}
	defer c.rd.turn.give()
	if err := c.ending(); err != nil {
		return nil, nil, err
	}
	if c.rd.pending {
		return nil, nil, errUnreceived
	}
	q := &c.wr.queue
	q.mu.Lock()
	err = q.err
	if r := c.ring.Load(); err == nil && r != nil && (r.reads.Load() || r.writes.Load()) {
		err = errRing
	}
	if err == nil && q.first != nil {
		err = errSending
	}
	if err == nil && !c.closing.CompareAndSwap(false, true) {
		err = ErrChannelClosed
	}
	if err == nil {
		q.err = ErrChannelClosed
	}
	q.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	c.taken.Store(true)
	ahead = slices.Clone(c.rd.buf[c.rd.r:c.rd.w])
	c.rd.end(ErrChannelClosed)
	c.rd.intr.close()
	c.wr.intr.close()
	c.unshare()
	c.conn.SetDeadline(time.Time{})
	return c.conn, ahead, nil
}
