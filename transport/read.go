package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"
)

// A receiver reads into a buffer of its own, so that many small messages come with one system call. Where it can
// tell whether a read would block it has the buffer, out of a pool, only while there is something in it. Elsewhere
// it keeps a small one from the first receive on.
const (
	pooledBufferSize = 64<<10 + 512 // a header and a message of 64 KiB fit
	keptBufferSize   = 8 << 10
)

// firstRead is how much is read into the buffer until a stream of small messages shows: of a large message
// little is copied then, and the rest is read to where it belongs.
const firstRead = 8 << 10

// firstBody is how much is allocated for a large body before its bytes arrive. Beyond that the buffer
// doubles as it fills, so that a lying length costs the liar bandwidth and not us memory.
const firstBody = 16 << 10

// reader is the receiving half of a Channel. Whoever holds the turn owns all of it.
type reader struct {
	turn turn
	conn net.Conn
	intr interrupter

	room   int    // how large buf is when there is one
	ask    int    // how much to read into it at a time
	buf    []byte // buf[r:w] was read from the connection and not used yet; nil when there is nothing
	r, w   int
	pooled *[pooledBufferSize]byte // whose memory buf is, or nil

	raw     syscall.RawConn    // to read what has arrived; nil where that cannot be
	tryRead func(uintptr) bool // reads to dest, or arms ctx and waits
	ctx     context.Context    // of the read under way, like what follows
	into    []byte             // where to; nil for the buffer
	need    int                // how much the buffer lacks at least
	got     int
	failed  error

	// Where one large raw message follows another, RecvBytes has the body read together with its header.
	expect   int       // size of the last raw message, when it was large
	ahead    []byte    // the caller's buffer, to read the body to
	gotAhead int       // bytes there that came with a header
	iov      [2][]byte // header and body

	peeking bool // the read under way leaves what it gets in the socket
	peeked  int  // bytes in front there that PeekFrame has returned

	skipped int64 // bytes of extension frames since the last frame of a known kind
	pending bool  // a header was read and its body is not used up
	kind    Kind  // of the pending frame
	size    int   // bytes of its body that are not used up
	body    *body // the part of a body that was moved out of buf, or was never in it; from the pool
	lent    *body // what ReadFrame or RecvBorrowed returned; goes back to the pool at the next receive

	err   error         // what every further receive returns; set by end
	ended chan struct{} // closed when err is set, so that others than the turn's holder may read it
}

// Recv receives one message of KindMessage and decodes it into v, a pointer, as CBOR.
//
// When the message is raw bytes the error is a [*KindError] and the message stays; when it does not
// fit v, a [*DecodeError], and the next Recv gets the next message. When the peer closed, the error
// is a [*GoodbyeError] (it matches [io.EOF]); when it crashed, [ErrPeerGone]. An ended ctx gives its
// error and its cause, and loses nothing.
//
// What v gets is copied out of the channel's buffers. A field of type [Bytes] or cbor.RawMessage reuses its
// capacity, a []byte is always fresh memory.
func (c *Channel) Recv(ctx context.Context, v any) error {
	if err := c.recv(ctx, v); err != nil {
		return &Error{"receive", err}
	}
	return nil
}

func (c *Channel) recv(ctx context.Context, v any) error {
	if err := c.startReceive(ctx); err != nil {
		return err
	}
	defer c.rd.turn.give()
	if err := c.nextMessage(ctx, KindMessage); err != nil {
		return err
	}
	body, err := c.wholeBody(ctx)
	if err != nil {
		return err
	}
	defer c.rd.release()
	defer c.used()
	return decodeMessage(body, v)
}

// RecvBytes receives one message of KindRaw into buf and returns its length. Large bodies are read
// from the socket into buf directly; behind the message, and after an error, buf may have been written to. A
// message larger than buf gives a [*ShortBufferError] and stays, one of KindMessage a [*KindError]; the other errors
// are those of Recv.
func (c *Channel) RecvBytes(ctx context.Context, buf []byte) (int, error) {
	n, err := c.recvBytes(ctx, buf)
	if err != nil {
		return 0, &Error{"receive", err}
	}
	return n, nil
}

func (c *Channel) recvBytes(ctx context.Context, buf []byte) (int, error) {
	if err := c.startReceive(ctx); err != nil {
		return 0, err
	}
	defer c.rd.turn.give()
	rd := &c.rd
	if rd.expect > 0 && rd.expect <= len(buf) {
		rd.ahead = buf
		defer func() { rd.ahead, rd.iov = nil, [2][]byte{} }()
	}
	if err := c.nextMessage(ctx, KindRaw); err != nil {
		return 0, err
	}
	size := rd.size
	if size > len(buf) {
		return 0, &ShortBufferError{Have: len(buf), Need: size}
	}
	rd.expect = 0
	if size > firstRead {
		rd.expect = size
	}
	buf = buf[:size]
	got := rd.gotAhead
	rd.gotAhead = 0
	if rd.body != nil {
		got = copy(buf, rd.body.b) // from a receive that was cancelled half-way
	} else if size <= firstRead {
		if err := c.fill(ctx, size); err != nil {
			return 0, err
		}
	}
	m := copy(buf[got:], rd.buf[rd.r:rd.w])
	rd.r += m
	got += m
	for got < size {
		n, err := c.read(ctx, buf[got:])
		got += n
		if err != nil {
			rd.body = takeBody(rd.body)
			rd.body.b = append(rd.body.b[:0], buf[:got]...)
			return 0, err
		}
	}
	c.used()
	rd.release()
	return size, nil
}

// RecvBorrowed receives one message of KindRaw and returns it in the channel's own memory, which is lent to
// the caller until the next receive on the channel, by whomever: then it is used again, for this or another channel. The
// bytes may be changed, and must not be kept. So it is for channels on which one goroutine at a time receives, and
// for messages whose size nobody knows before. In the steady state nothing is allocated for messages up to 4 MiB; the memory
// of a larger one is left to the garbage collector with the next receive. The errors are those of Recv.
func (c *Channel) RecvBorrowed(ctx context.Context) ([]byte, error) {
	p, err := c.recvBorrowed(ctx)
	if err != nil {
		return nil, &Error{"receive", err}
	}
	return p, nil
}

func (c *Channel) recvBorrowed(ctx context.Context) ([]byte, error) {
	if err := c.startReceive(ctx); err != nil {
		return nil, err
	}
	defer c.rd.turn.give()
	if err := c.nextMessage(ctx, KindRaw); err != nil {
		return nil, err
	}
	body, err := c.wholeBody(ctx)
	if err != nil {
		return nil, err
	}
	c.lend()
	return body, nil
}

// ReadFrame receives the next frame of any kind, for code that speaks the protocol itself; its
// errors are those of Recv. It interprets nothing, but skips extension kinds and refuses unknown
// ones. Unlike Recv it skips no more than the channel's limit, in bytes, before a frame of a known kind:
// it is what a handshake reads strangers with. The body is the channel's own memory, good until the next receive.
func (c *Channel) ReadFrame(ctx context.Context) (Frame, error) {
	f, err := c.readFrame(ctx)
	if err != nil {
		return Frame{}, &Error{"receive", err}
	}
	return f, nil
}

func (c *Channel) readFrame(ctx context.Context) (Frame, error) {
	if err := c.startReceive(ctx); err != nil {
		return Frame{}, err
	}
	defer c.rd.turn.give()
	defer c.rd.intr.leave()
	if err := c.header(ctx, c.limit.Load()); err != nil {
		return Frame{}, err
	}
	body, err := c.wholeBody(ctx)
	if err != nil {
		return Frame{}, err
	}
	if c.rd.body == nil { // so that a channel which is idle behind its handshake has no buffer
		body = bytes.Clone(body)
	}
	f := Frame{c.rd.kind, body}
	c.lend()
	c.rd.release()
	return f, nil
}

// lend ends the pending frame, whose body the caller gets until the next receive.
func (c *Channel) lend() {
	c.rd.lent, c.rd.body = c.rd.body, nil
	c.used()
}

// startReceive takes the turn to read.
func (c *Channel) startReceive(ctx context.Context) error {
	if ctx.Err() != nil {
		return newContextError(ctx)
	}
	if err := c.rd.turn.take(ctx, c.closed); err != nil {
		return err
	}
	if c.closing.Load() {
		c.rd.turn.give()
		return ErrClosed
	}
	if c.rd.lent != nil {
		putBody(c.rd.lent)
		c.rd.lent = nil
	}
	return nil
}

// nextMessage reads up to the header of the next message, which must be of kind want, and handles the
// control frames before it.
func (c *Channel) nextMessage(ctx context.Context, want Kind) error {
	for {
		if err := c.header(ctx, math.MaxInt64); err != nil {
			return err
		}
		switch kind := c.rd.kind; kind {
		case want:
			return nil
		case KindMessage, KindRaw:
			return &KindError{Got: kind, Want: want}
		}
		if err := c.handle(ctx); err != nil {
			return err
		}
	}
}

// handle reads the pending control frame and does what it says.
func (c *Channel) handle(ctx context.Context) error {
	body, err := c.wholeBody(ctx)
	if err != nil {
		return err
	}
	defer c.used() // also when OnCancel panics
	if err := c.control(c.rd.kind, body); err != nil {
		return c.rd.end(err)
	}
	return nil
}

// control handles one frame that is not a message. An error ends the receiving side.
func (c *Channel) control(kind Kind, body []byte) error {
	switch kind {
	case KindPing:
		return c.pong(body)
	case KindPong:
		c.ponged(body)
		return nil
	case KindCancel:
		req, err := ParseCancel(body)
		if err != nil {
			return fmt.Errorf("%w: cancel frame: %v", ErrProtocol, err)
		}
		if c.onCancel != nil {
			c.onCancel(req)
		}
		return nil
	case KindGoodbye:
		bye, err := ParseGoodbye(body)
		if err != nil {
			return fmt.Errorf("%w: goodbye frame: %v", ErrProtocol, err)
		}
		return bye
	}
	return fmt.Errorf("%w: %s frame on an open channel", ErrProtocol, kind)
}

// header makes a frame of a known kind the pending one, unless one is pending already. It skips at most
// maxSkipped bytes of others.
func (c *Channel) header(ctx context.Context, maxSkipped int64) error {
	rd := &c.rd
	for {
		if rd.err != nil {
			return rd.err
		}
		if !rd.pending {
			if err := c.fill(ctx, headerSize); err != nil {
				return err
			}
			n := int64(binary.LittleEndian.Uint32(rd.buf[rd.r:]))
			switch limit := c.limit.Load(); {
			case n == 0:
				return rd.end(fmt.Errorf("%w: a frame of length 0", ErrProtocol))
			case n > limit:
				return rd.end(&SizeError{Size: n, Limit: limit, Received: true})
			}
			if n > firstRead {
				rd.ask = firstRead
			}
			rd.kind = Kind(rd.buf[rd.r+lengthSize])
			if !rd.kind.known() && rd.kind < KindExtension {
				return rd.end(fmt.Errorf("%w: unknown %s", ErrProtocol, rd.kind))
			}
			rd.r += headerSize
			rd.pending, rd.size = true, int(n)-1
			if rd.gotAhead > 0 && !rd.asExpected() {
				rd.w += copy(rd.buf[rd.w:], rd.ahead[:rd.gotAhead])
				rd.gotAhead = 0
			}
			if rd.kind >= KindExtension {
				rd.skipped += n
			}
		}
		if rd.kind < KindExtension {
			rd.skipped = 0
			return nil
		}
		if rd.skipped > maxSkipped {
			return rd.end(fmt.Errorf("%w: more than %d bytes of extension frames", ErrProtocol, maxSkipped))
		}
		if err := c.skip(ctx); err != nil {
			return err
		}
	}
}

// asExpected tells whether what was read ahead belongs to the pending frame, and may stay where it is.
func (rd *reader) asExpected() bool {
	return rd.kind == KindRaw && rd.size > firstRead && rd.size >= rd.gotAhead && rd.size <= len(rd.ahead)
}

// skip drops the pending body without storing it.
func (c *Channel) skip(ctx context.Context) error {
	rd := &c.rd
	for {
		n := min(rd.size, rd.w-rd.r)
		rd.r += n
		rd.size -= n
		if rd.size == 0 {
			rd.pending = false
			return nil
		}
		if err := c.fill(ctx, 1); err != nil {
			return err
		}
	}
}

// wholeBody returns the pending frame's body, which stays pending until used is called. The bytes
// are good until the next receive.
func (c *Channel) wholeBody(ctx context.Context) ([]byte, error) {
	rd := &c.rd
	if rd.body == nil && rd.size <= rd.room {
		if err := c.fill(ctx, rd.size); err != nil {
			return nil, err
		}
		b := rd.buf[rd.r : rd.r+rd.size : rd.r+rd.size] // an append must not write over what follows
		rd.r += rd.size
		return b, nil
	}
	body := takeBody(rd.body)
	rd.body = body
	m := min(rd.size-len(body.b), rd.w-rd.r)
	body.b = append(body.b, rd.buf[rd.r:rd.r+m]...)
	rd.r += m
	for len(body.b) < rd.size {
		if len(body.b) == cap(body.b) {
			grown := make([]byte, len(body.b), min(rd.size, 2*len(body.b)))
			copy(grown, body.b)
			body.b = grown
		}
		n, err := c.read(ctx, body.b[len(body.b):min(cap(body.b), rd.size)])
		body.b = body.b[:len(body.b)+n]
		if err != nil {
			return nil, err
		}
	}
	return body.b, nil
}

// takeBody returns b, or an empty one from the pool.
func takeBody(b *body) *body {
	if b != nil {
		return b
	}
	b = bodies.Get().(*body)
	if cap(b.b) < firstBody {
		b.b = make([]byte, 0, firstBody)
	}
	return b
}

// used ends the pending frame.
func (c *Channel) used() {
	c.rd.pending = false
	if c.rd.body != nil {
		putBody(c.rd.body)
		c.rd.body = nil
	}
}

// fill reads until at least n bytes are buffered; n is at most the buffer's size.
func (c *Channel) fill(ctx context.Context, n int) error {
	rd := &c.rd
	if rd.r == rd.w {
		rd.r, rd.w = 0, 0
	}
	if rd.room-rd.r < n {
		rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.r = 0
	}
	for rd.w-rd.r < n {
		rd.need = n - (rd.w - rd.r)
		m, err := c.read(ctx, nil)
		if err != nil {
			return err
		}
		rd.w += m
	}
	return nil
}

// read reads from the connection to p, or, when p is nil, behind what is buffered. An error means that no
// byte was read. Unless it is the context's, the receiving side ends with it.
func (c *Channel) read(ctx context.Context, p []byte) (int, error) {
	rd := &c.rd
	defer rd.intr.rest()
	for {
		n, err := rd.readSome(ctx, p)
		if n > 0 {
			if c.closing.Load() {
				// Close drops input, so there may be a hole before these bytes.
				return 0, rd.end(ErrClosed)
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		if !isTimeout(err) {
			rd.end(c.readError(err))
		}
		if ctx.Err() != nil {
			// Also when the stream ended at the same moment: the cancellation is the better news.
			return 0, newContextError(ctx)
		}
		if rd.err == nil {
			return 0, err // a deadline that somebody set behind our back
		}
		return 0, rd.err
	}
}

// readSome is one call of read.
func (rd *reader) readSome(ctx context.Context, p []byte) (n int, err error) {
	if rd.raw == nil {
		rd.into = p
		rd.intr.arm(ctx)
		n, err = rd.conn.Read(rd.dest())
	} else {
		rd.intr.keep(ctx)
		rd.ctx, rd.into, rd.got, rd.failed = ctx, p, 0, nil
		err = rd.raw.Read(rd.tryRead)
		n, rd.ctx = rd.got, nil
		switch {
		case err != nil:
		case rd.failed != nil:
			err = rd.failed
		case n == 0:
			err = io.EOF
		}
	}
	if p == nil && n >= rd.ask {
		rd.ask = rd.room // what is coming are many
	}
	rd.into = nil
	return n, err
}

// dest is where the read under way reads to.
func (rd *reader) dest() []byte {
	if rd.into != nil {
		return rd.into
	}
	if rd.buf == nil {
		if rd.raw != nil {
			rd.pooled = pooledBuffers.Get().(*[pooledBufferSize]byte)
			rd.buf = rd.pooled[:]
		} else {
			rd.buf = make([]byte, rd.room)
		}
	}
	return rd.buf[rd.w:min(rd.room, rd.w+max(rd.ask, rd.need))]
}

// release gives an empty buffer back.
func (rd *reader) release() {
	if rd.pooled != nil && rd.r == rd.w {
		pooledBuffers.Put(rd.pooled)
		rd.pooled, rd.buf, rd.r, rd.w = nil, nil, 0, 0
	}
}

// end makes err what every further receive returns; the first one stays.
func (rd *reader) end(err error) error {
	if rd.err == nil {
		rd.err = err
		close(rd.ended)
	}
	return rd.err
}

// ending is what ended the receiving side, or nil.
func (c *Channel) ending() error {
	select {
	case <-c.rd.ended:
		return c.rd.err
	default:
		return nil
	}
}

func (c *Channel) readError(err error) error {
	if c.closing.Load() {
		return ErrClosed
	}
	reset := errors.Is(err, errnoReset)
	if err = netError(err); reset {
		err = ErrReset
	}
	if errors.Is(err, ErrPeerGone) && (c.rd.pending || c.rd.r != c.rd.w) {
		return fmt.Errorf("%w, in the middle of a frame", err)
	}
	return err
}
