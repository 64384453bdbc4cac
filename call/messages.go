package call

import (
	"context"
	"fmt"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/values"
	"github.com/spawnwire/spawnwire/transport"
)

// messages has the ordinary messages between the calls. If they have more than
// maxMessages bytes, nothing is read until the program receives one. So a sender of
// many waits, as it does without calls.
type messages struct {
	all  []frame.Frame
	size int
	wait waiters
}

const maxMessages = 1 << 20

func (m *messages) full() bool { return m.size > maxMessages }

func (m *messages) put(c *Conn, f frame.Frame) {
	f.Body = append([]byte(nil), f.Body...)
	m.all = append(m.all, f)
	m.size += overhead + len(f.Body)
	m.wait.signalFirst(c)
}

// Recv receives the next ordinary message into v. The peer has sent it with
// [transport.Channel.Send]. Its errors are those of [transport.Channel.Recv] and those of the Conn.
//
// Messages have no limit of their own: if a program does not receive them, its calls
// stop after about a mebibyte of messages.
func (c *Conn) Recv(ctx context.Context, v any) error {
	f, err := c.nextMessage(ctx, frame.KindMessage)
	if err != nil {
		return err
	}
	if err := values.Decode(f.Body, v); err != nil {
		return fmt.Errorf("call: receive: %w", &transport.DecodeError{Type: fmt.Sprintf("%T", v),
			Err: err})
	}
	return nil
}

// RecvBytes receives the next ordinary message of [transport.Channel.SendBytes]. In
// all else it is like Recv.
func (c *Conn) RecvBytes(ctx context.Context) ([]byte, error) {
	f, err := c.nextMessage(ctx, frame.KindRaw)
	return f.Body, err
}

// nextMessage takes the next message. It must be of the kind.
func (c *Conn) nextMessage(ctx context.Context, want frame.Kind) (frame.Frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &c.messages
	var w waiter
	for len(m.all) == 0 {
		if c.state == stateDead {
			return frame.Frame{}, fmt.Errorf("call: receive: %w", c.err)
		}
		m.wait.add(&w)
		err := c.waitLocked(ctx, &w)
		m.wait.remove(&w)
		if err != nil {
			return frame.Frame{}, fmt.Errorf("call: receive: %w", err)
		}
	}
	f := m.all[0]
	if f.Kind != want {
		return frame.Frame{}, fmt.Errorf("call: receive: %w", transport.ErrWrongKind)
	}
	m.all = m.all[1:]
	wasFull := m.full()
	m.size -= overhead + len(f.Body)
	if wasFull && !m.full() {
		c.offerRole()
		c.startTicking()
	}
	return f, nil
}
