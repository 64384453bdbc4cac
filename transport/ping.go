package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// maxPing is the largest body of a ping in bytes, and maxPongs how many pings may wait for their
// answer before further ones are dropped: a peer that pings and does not read costs no more.
const (
	maxPing  = 64
	maxPongs = 16
)

// Ping asks the peer for a sign of life and returns how long it took. It needs somebody who receives
// on both sides: pings and pongs are handled while Recv or RecvBytes runs. The errors are those of
// Send, the context's, or that of the receive after which no pong can come.
func (c *Channel) Ping(ctx context.Context) (time.Duration, error) {
	id, answered := c.newPing()
	defer c.forgetPing(id)
	start := time.Now()
	if err := c.writeFrame(ctx, Frame{KindPing, binary.BigEndian.AppendUint64(nil, id)}, false); err != nil {
		return 0, &Error{"ping", err}
	}
	select {
	case <-answered:
		return time.Since(start), nil
	case <-ctx.Done():
		return 0, &Error{"ping", newContextError(ctx)}
	case <-c.closed:
		return 0, &Error{"ping", ErrClosed}
	case <-c.rd.ended:
		select {
		case <-answered: // just before
			return time.Since(start), nil
		default:
			return 0, &Error{"ping", c.rd.err}
		}
	}
}

func (c *Channel) newPing() (uint64, chan struct{}) {
	c.pingMu.Lock()
	defer c.pingMu.Unlock()
	if c.pings == nil {
		c.pings = make(map[uint64]chan struct{})
	}
	id := rand.Uint64()
	for c.pings[id] != nil {
		id = rand.Uint64()
	}
	answered := make(chan struct{})
	c.pings[id] = answered
	return id, answered
}

func (c *Channel) forgetPing(id uint64) {
	c.pingMu.Lock()
	defer c.pingMu.Unlock()
	delete(c.pings, id)
}

// ponged wakes the ping that a pong answers. One that answers none is ignored: its Ping gave up.
func (c *Channel) ponged(body []byte) {
	if len(body) != 8 {
		return
	}
	id := binary.BigEndian.Uint64(body)
	c.pingMu.Lock()
	defer c.pingMu.Unlock()
	if answered := c.pings[id]; answered != nil {
		close(answered)
		delete(c.pings, id)
	}
}

// pong answers a ping, in a goroutine of its own, because the receiver must not wait for a peer that
// does not read. The channel's end waits for that goroutine.
func (c *Channel) pong(body []byte) error {
	if len(body) > maxPing {
		return fmt.Errorf("%w: ping of %d bytes, the limit is %d", ErrProtocol, len(body), maxPing)
	}
	c.pingMu.Lock()
	defer c.pingMu.Unlock()
	if len(c.pongs) >= maxPongs || c.closing.Load() {
		return nil
	}
	c.pongs = append(c.pongs, append([]byte(nil), body...))
	if !c.ponger {
		c.ponger = true
		c.wg.Go(c.answerPings)
	}
	return nil
}

func (c *Channel) answerPings() {
	for {
		c.pingMu.Lock()
		if len(c.pongs) == 0 {
			c.ponger = false
			c.pingMu.Unlock()
			return
		}
		body := c.pongs[0]
		c.pongs = c.pongs[1:]
		c.pingMu.Unlock()
		if err := c.writeFrame(context.Background(), Frame{KindPong, body}, false); err != nil {
			c.pingMu.Lock()
			c.pongs, c.ponger = nil, false
			c.pingMu.Unlock()
			return
		}
	}
}
