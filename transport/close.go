package transport

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
)

// closeTimeout bounds two steps of Close: to write the goodbye when the peer does
// not read, and to wait until the peer has read it.
var closeTimeout = time.Second

// Close sends a goodbye with status 0 and then closes the connection. Unlike Close in
// net/http it is graceful; [Channel.Abort] is immediate.
//
// Close takes at most a second to write the goodbye, also when the peer does not
// read. Over TCP it takes at most another second until the peer has received the
// goodbye. It sends no goodbye after a receive failed with [ErrProtocol]. A second
// call returns an error that matches [ErrChannelClosed].
func (c *Channel) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return c.CloseWith(ctx, 0, "")
}

// CloseWith is like Close, with a status and a reason for the peer. If ctx ends
// before the goodbye is written, CloseWith closes the connection without it and
// returns the context's error.
//
// The peer receives all sent messages before the goodbye. Messages that the peer has
// sent and this side has not received are lost.
func (c *Channel) CloseWith(ctx context.Context, status int, reason string) (err error) {
	defer wrap("close", &err)
	if !c.closing.CompareAndSwap(false, true) {
		return ErrChannelClosed
	}
	if status != 0 || !errors.Is(c.ending(), ErrProtocol) {
		bye := frame.Goodbye{Status: status, Reason: reason}.Frame()
		err = c.writeFrame(ctx, bye.Kind, bye.Body, true)
	}
	switch {
	case err == nil:
		c.settle(ctx)
	case errors.Is(err, ErrPeerGone) && errors.As(c.ending(), new(*GoodbyeError)):
		err = nil // the peer closed first, and there is nobody for this side's goodbye
	}
	if closeErr := c.abortConn(); err == nil {
		err = closeErr
	}
	return err
}

// settle ends the sending direction after the goodbye. Over TCP it also waits until
// the peer has read the goodbye and has ended its own sending direction. If a TCP
// socket is closed and has unread input, or gets some later, the kernel resets the
// connection and drops what it has not delivered (RFC 1122, 4.2.2.13).
func (c *Channel) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.abortConn() }) // TLS alone would take up to 5 seconds
	defer stop()
	closeWrite(c.conn)
	closeWrite(c.below)
	_, plain := c.conn.(*net.TCPConn)
	_, below := c.below.(*net.TCPConn)
	if plain || below {
		c.discard(ctx)
	}
}

// discard drops input until the end of the stream, or until ctx ends. It does not
// take the turn to read, because OnCancel may close the channel within a receive.
// Another receive under way reads too, and drops what it gets.
func (c *Channel) discard(ctx context.Context) {
	b := make([]byte, 16<<10)
	for ctx.Err() == nil {
		_, err := c.conn.Read(b)
		switch {
		case err == nil:
		case isTimeout(err): // the end of a receive's context
			if c.rd.turn.count.Load() == 0 {
				c.rd.intr.disarmEnded()
			}
			time.Sleep(time.Millisecond)
		default:
			return
		}
	}
}

// letGo ends the sending direction when the peer has said goodbye. The peer drops
// what it receives, and waits for this before it closes its connection.
func (c *Channel) letGo() {
	if c.taken.Load() {
		return // the connection has another owner
	}
	q := &c.wr.queue
	q.mu.Lock()
	if q.err == nil {
		q.err = ErrPeerGone
	}
	idle := q.first == nil
	if !idle && c.below == nil { // on a Unix socket a shutdown does not end a blocked write
		q.interrupted = true
		c.setWriteDeadline(aLongTimeAgo)
	}
	q.mu.Unlock()
	if idle && c.below != nil {
		closeWrite(c.conn) // TLS waits for a write under way, which may never end
	}
	c.shut()
}

// LetGo implements frame.Channel.
func (f frames) LetGo() { f.c.letGo() }

// Abort closes the connection immediately and without a goodbye. The peer gets
// [ErrPeerGone]. Abort may be called more than once, and during a Close, which it
// ends.
func (c *Channel) Abort() (err error) {
	defer wrap("close", &err)
	c.closing.Store(true)
	return c.abortConn()
}

func (c *Channel) abortConn() (err error) {
	c.abort.Do(func() {
		close(c.closed)
		c.death.stop()
		if c.below != nil {
			// first, because Close of a TLS connection waits until its alert is written
			err = c.below.Close()
			c.conn.Close()
		} else {
			err = c.conn.Close()
		}
		c.rd.intr.close()
		c.wr.intr.close()
		c.unshare()
	})
	c.pings.wait()
	return err
}

// shut ends the sending direction, for example after a frame was cut, because the
// peer waits for the rest of the frame. It does not use TLS, which would wait for
// room and write an alert into the middle of a record.
func (c *Channel) shut() {
	if c.below != nil {
		closeWrite(c.below)
	} else {
		closeWrite(c.conn)
	}
}

// closeWrite ends the sending direction of conn if it can. conn may be nil.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
