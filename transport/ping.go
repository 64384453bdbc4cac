package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
)

const (
	maxPongs = 16 // the most unanswered pings; further ones are dropped
)

// pings has the pings of both sides that are not answered yet.
type pings struct {
	wg sync.WaitGroup // of the goroutine that answers

	mu      sync.Mutex               // guards the rest; never held over input or output
	ours    map[uint64]chan struct{} // closed by the pong
	theirs  [][]byte                 // bodies of the pings to answer
	answers bool                     // a goroutine answers them
}

// Ping sends a ping and returns the time until the pong. A receive must run on both
// sides meanwhile, because receives handle pings and pongs. Its errors are those of
// Send and of Recv.
func (c *Channel) Ping(ctx context.Context) (took time.Duration, err error) {
	defer wrap("ping", &err)
	id, answered := c.pings.add()
	defer c.pings.remove(id)
	start := time.Now()
	if err := c.writeFrame(ctx, frame.KindPing,
		binary.BigEndian.AppendUint64(nil, id), false); err != nil {
		return 0, err
	}
	select {
	case <-answered:
		return time.Since(start), nil
	case <-ctx.Done():
		return 0, neterr.Context(ctx)
	case <-c.closed:
		return 0, ErrChannelClosed
	case <-c.rd.ended:
		select {
		case <-answered: // just before the end
			return time.Since(start), nil
		default:
			return 0, c.rd.err
		}
	}
}

// add makes a new ping. It returns the ping's id and a channel for its pong.
func (p *pings) add() (uint64, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ours == nil {
		p.ours = make(map[uint64]chan struct{})
	}
	id := rand.Uint64()
	for p.ours[id] != nil {
		id = rand.Uint64()
	}
	answered := make(chan struct{})
	p.ours[id] = answered
	return id, answered
}

func (p *pings) remove(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ours, id)
}

// answered wakes the Ping of a pong. The Ping may have ended already.
func (p *pings) answered(body []byte) {
	if len(body) != 8 {
		return
	}
	id := binary.BigEndian.Uint64(body)
	p.mu.Lock()
	defer p.mu.Unlock()
	if answered := p.ours[id]; answered != nil {
		close(answered)
		delete(p.ours, id)
	}
}

// answer answers a ping of the peer in another goroutine, because a receive must not
// wait for a peer that does not read. abortConn waits for that goroutine.
func (c *Channel) answer(body []byte) error {
	if len(body) > frame.MaxPing {
		return fmt.Errorf("%w: ping of %d bytes, the limit is %d",
			ErrProtocol, len(body), frame.MaxPing)
	}
	p := &c.pings
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.theirs) >= maxPongs || c.closing.Load() {
		return nil
	}
	p.theirs = append(p.theirs, append([]byte(nil), body...))
	if !p.answers {
		p.answers = true
		p.wg.Go(c.answerAll)
	}
	return nil
}

// answerAll answers until there are no pings left or a write fails.
func (c *Channel) answerAll() {
	p := &c.pings
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.theirs) > 0 {
		body := p.theirs[0]
		p.theirs = p.theirs[1:]
		p.mu.Unlock()
		err := c.writeFrame(context.Background(), frame.KindPong, body, false)
		p.mu.Lock()
		if err != nil {
			p.theirs = nil
		}
	}
	p.answers = false
}

// wait waits for the answering goroutine. The connection is closed already.
func (p *pings) wait() {
	p.mu.Lock() // a call of answer that saw the channel open has started its goroutine
	//lint:ignore SA2001 the lock itself is the wait
	p.mu.Unlock()
	p.wg.Wait()
}
