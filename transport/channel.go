package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultLimit is the largest frame, in bytes, that a channel sends or receives unless its Config
// says otherwise. It counts as the frame's length field does: the kind and the body.
const DefaultLimit = 16 << 20

// maxLimit keeps a frame's length within an int on 32-bit machines.
const maxLimit = 1<<31 - 1

// closeTimeout bounds what Close may spend on saying goodbye to a peer that does not read, and then on
// waiting until it has arrived.
const closeTimeout = time.Second

// Config has the settings of a Channel. Its zero value is ready to use.
type Config struct {
	// Limit is the largest frame in bytes, both ways; 0 means DefaultLimit. See Channel.SetLimit.
	Limit int

	// OnCancel is called when the peer asks this side to stop. It runs in the goroutine that
	// receives, so a channel on which nobody receives does not call it, and it must not block or
	// receive. Nil ignores such requests.
	OnCancel func(Cancel)
}

// Channel carries whole messages over a connection. Make one with [New]; end it with Close.
//
// All methods may be called concurrently. Senders are served in the order in which they come, each frame in
// one write; small frames of several that wait share one. Receivers take turns per message. There is no
// goroutine behind a channel: the goroutine that calls Recv reads the socket itself.
//
// A message is whole or absent. A receive that ends early, because of its context or because the
// message is of the other kind or too large for the buffer, leaves the message for the next
// receive. A send that ends early has written nothing, or else the channel is broken for sending and
// this and every later send says so with [ErrBroken].
//
// Every error of an operation is an [*Error].
type Channel struct {
	conn     net.Conn
	below    net.Conn // the connection that conn, a TLS one, runs over; else nil
	limit    atomic.Int64
	onCancel func(Cancel)
	closing  atomic.Bool   // set by the first Close or Abort
	closed   chan struct{} // closed just before the connection is
	abort    sync.Once

	rd reader
	wr writer

	pingMu sync.Mutex // guards pings and pongs; never held over input or output
	pings  map[uint64]chan struct{}
	pongs  [][]byte // bodies of pings that are not answered yet
	ponger bool     // a goroutine is answering them
	wg     sync.WaitGroup
}

// New makes a Channel over conn and takes conn over: only the channel reads, writes, sets deadlines
// and closes from now on. It neither reads nor writes by itself. A TLS connection must have shaken
// hands before, see [Secure]: a handshake that a context interrupts cannot be taken up again.
func New(conn net.Conn, cfg Config) *Channel {
	c := &Channel{conn: conn, below: below(conn), onCancel: cfg.OnCancel, closed: make(chan struct{})}
	// One that was set before, for a dial or a TLS handshake, was not meant for the channel.
	conn.SetReadDeadline(time.Time{})
	conn.SetWriteDeadline(time.Time{})
	c.SetLimit(cfg.Limit)
	c.rd.ended = make(chan struct{})
	c.rd.turn = newTurn()
	c.rd.intr.setDeadline = conn.SetReadDeadline
	c.wr.intr.setDeadline = conn.SetWriteDeadline
	c.rd.conn, c.wr.conn = conn, conn
	c.rd.room, c.rd.ask = keptBufferSize, firstRead
	c.wr.plain = isPlain(conn)
	if c.wr.plain {
		c.raw(conn)
	}
	return c
}

// SetLimit changes the largest frame, in bytes, for what is sent and received from now on; 0 means
// DefaultLimit. A handshake starts with a small limit and raises it when it knows the peer.
func (c *Channel) SetLimit(limit int) {
	switch {
	case limit <= 0:
		limit = DefaultLimit
	case limit > maxLimit:
		limit = maxLimit
	}
	c.limit.Store(int64(limit))
}

// Limit returns the largest frame in bytes.
func (c *Channel) Limit() int { return int(c.limit.Load()) }

// LocalAddr returns the connection's own address.
func (c *Channel) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *Channel) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// NetConn returns the connection below, for instance to ask for the peer's credentials. Reading,
// writing or setting deadlines on it spoils the channel.
func (c *Channel) NetConn() net.Conn { return c.conn }

// Close says goodbye with status 0 and closes the connection. It takes at most a second, even when
// the peer does not read. When a receive has failed with [ErrProtocol] there is no goodbye, as that is no orderly end.
// Closing again returns an error that matches ErrClosed.
func (c *Channel) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return c.CloseWith(ctx, 0, "")
}

// CloseWith is Close with the caller's own status, reason and bound: when ctx ends before the goodbye
// is written the connection is closed without one, and the error says so. Messages that were
// received by the kernel but not by Recv are lost; messages that were sent reach the peer before
// the goodbye does. Over TCP it waits until the peer's kernel has them, for a second at most.
func (c *Channel) CloseWith(ctx context.Context, status int, reason string) error {
	if !c.closing.CompareAndSwap(false, true) {
		return &Error{"close", ErrClosed}
	}
	var err error
	if status != 0 || !errors.Is(c.ending(), ErrProtocol) {
		var body []byte
		if body, err = encodeControl(goodbye{&status, wireText(reason)}); err == nil {
			err = c.writeFrame(ctx, Frame{KindGoodbye, body}, true)
		}
	}
	switch {
	case err == nil:
		c.settle(ctx)
	case errors.Is(err, ErrPeerGone) && errors.As(c.ending(), new(*GoodbyeError)):
		err = nil // nobody is left who could hear ours
	}
	if cerr := c.abortConn(); err == nil {
		err = cerr
	}
	if err != nil {
		return &Error{"close", err}
	}
	return nil
}

// settle ends the sending direction behind the goodbye and gives the peer's kernel time to take all of
// it. Closing a TCP socket that has unread input, or gets some later, makes the kernel reset the
// connection and throw away what it has not delivered yet (RFC 1122, 4.2.2.13).
func (c *Channel) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.abortConn() }) // TLS has a bound of its own, 5 seconds
	defer stop()
	closeWrite(c.conn)
	closeWrite(c.below)
	for _, conn := range []net.Conn{c.conn, c.below} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			drain(ctx, tcp)
		}
	}
}

// Abort closes the connection at once, with no goodbye. The peer takes it for a crash. It may be
// called while Close waits, and more than once.
func (c *Channel) Abort() error {
	c.closing.Store(true)
	if err := c.abortConn(); err != nil {
		return &Error{"close", err}
	}
	return nil
}

func (c *Channel) abortConn() (err error) {
	c.abort.Do(func() {
		close(c.closed)
		if c.below != nil {
			// First, because Close of a TLS connection waits until its own farewell is written.
			err = c.below.Close()
			c.conn.Close()
		} else {
			err = c.conn.Close()
		}
		c.rd.intr.close()
		c.wr.intr.close()
	})
	c.pingMu.Lock() // whoever was about to start the goroutine below has done so now, or never will
	//lint:ignore SA2001 the lock itself is the wait
	c.pingMu.Unlock()
	c.wg.Wait() // the pongs; the closed connection ends them
	return err
}

// below returns the connection that a TLS connection, or any other that says so, runs over, or nil.
func below(conn net.Conn) net.Conn {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return over.NetConn()
	}
	return nil
}

// closeWrite tells the peer that no more will come, where the connection can; nil cannot.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
