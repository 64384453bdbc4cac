package transport

import (
	"bytes"
	"context"
	"net"
	"syscall"
)

// maxCopied is the largest raw body that is copied behind its header for one plain write. A larger
// one is written by writev from where it lies.
const maxCopied = 8 << 10

// maxCombined is how many bytes of small frames of several senders go into one write.
const maxCombined = 64 << 10

// writer is the sending half of a Channel. Whoever leads the queue owns the rest of it.
type writer struct {
	queue sendQueue

	conn  net.Conn
	intr  interrupter
	plain bool        // a write that timed out has written what it says; see isPlain
	parts [2][]byte   // header and body for writev
	vec   net.Buffers // what is left of parts

	raw      syscall.RawConn    // to write what does not block; nil where that cannot be
	tryWrite func(uintptr) bool // writes out, or arms ctx and waits
	ctx      context.Context    // of the write under way, like what follows
	out      []byte
	written  int // bytes of it
	failed   error
}

// isPlain tells whether a write that reports 0 bytes has written 0 bytes. A TLS connection, and
// any that we do not know, may have sent a part of a record.
func isPlain(conn net.Conn) bool {
	switch conn.(type) {
	case *net.UnixConn, *net.TCPConn:
		return true
	}
	return false
}

// Send encodes v as CBOR and sends it as one message of KindMessage.
//
// Errors: [*EncodeError] and [*SizeError], nothing was written; an ended ctx, nothing was written;
// [ErrBroken] with the context's error, ctx ended in the middle of the frame and no more can be
// sent; [ErrPeerGone]; [ErrClosed]. A nil error means that the kernel has the message, not that the
// peer has it. So the messages that one goroutine sends stay in their order, and a peer that does not read
// holds up who sends.
func (c *Channel) Send(ctx context.Context, v any) error {
	if err := c.send(ctx, v); err != nil {
		return &Error{"send", err}
	}
	return nil
}

func (c *Channel) send(ctx context.Context, v any) error {
	p := places.Get().(*place)
	defer p.recycle()
	if err := encodeMessage(&p.buf, v); err != nil {
		return err
	}
	if err := c.checkSize(p.buf.Len() - lengthSize); err != nil {
		return err
	}
	p.frame = p.buf.Bytes()
	return c.write(ctx, p)
}

// SendBytes sends p as one message of KindRaw: the peer gets it with RecvBytes. p is not changed and
// not kept. The errors are those of Send.
func (c *Channel) SendBytes(ctx context.Context, p []byte) error {
	if err := c.writeFrame(ctx, Frame{KindRaw, p}, false); err != nil {
		return &Error{"send", err}
	}
	return nil
}

// WriteFrames sends frames of any kind in one write, for code that speaks the protocol itself. The
// errors are those of Send.
func (c *Channel) WriteFrames(ctx context.Context, frames ...Frame) error {
	p := places.Get().(*place)
	defer p.recycle()
	for _, f := range frames {
		if err := c.checkSize(len(f.Body) + 1); err != nil {
			return &Error{"send", err}
		}
		appendFrame(&p.buf, f)
	}
	if p.buf.Len() == 0 {
		return nil // some connections wait for a reader of nothing
	}
	p.frame = p.buf.Bytes()
	if err := c.write(ctx, p); err != nil {
		return &Error{"send", err}
	}
	return nil
}

// writeFrame sends one frame; last is for the goodbye, which is sent while the channel closes.
func (c *Channel) writeFrame(ctx context.Context, f Frame, last bool) error {
	if err := c.checkSize(len(f.Body) + 1); err != nil {
		return err
	}
	p := places.Get().(*place)
	defer p.recycle()
	if len(f.Body) > maxCopied && c.wr.plain {
		appendHeader(&p.buf, f.Kind, len(f.Body))
		p.body = f.Body
	} else {
		appendFrame(&p.buf, f)
	}
	p.frame, p.last = p.buf.Bytes(), last
	return c.write(ctx, p)
}

func appendFrame(b *bytes.Buffer, f Frame) {
	appendHeader(b, f.Kind, len(f.Body))
	b.Write(f.Body)
}

func appendHeader(b *bytes.Buffer, kind Kind, size int) {
	var header [headerSize]byte
	putHeader(header[:], kind, size)
	b.Write(header[:])
}

// sendable tells whether a later send may do better than one that failed.
func (c *Channel) sendable() bool {
	q := &c.wr.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err == nil && !c.closing.Load()
}

func (c *Channel) checkSize(size int) error {
	if limit := c.limit.Load(); int64(size) > limit {
		return &SizeError{Size: int64(size), Limit: limit}
	}
	return nil
}

// write sends what p holds.
func (c *Channel) write(ctx context.Context, p *place) error {
	if ctx.Err() != nil {
		return newContextError(ctx)
	}
	q := &c.wr.queue
	q.mu.Lock()
	q.push(p)
	if p.state == leading {
		return c.lead(ctx, p)
	}
	q.mu.Unlock()
	if !c.wait(ctx, p) {
		return p.err
	}
	q.mu.Lock()
	return c.lead(ctx, p)
}

// writeOut writes what the kernel does not have of the places from that of lead, which is the first, to last. It
// returns how many bytes that were.
func (c *Channel) writeOut(ctx context.Context, lead, last *place) (n int, err error) {
	wr := &c.wr
	defer wr.intr.rest()
	switch {
	case lead != last:
		b := encoders.Get().(*bytes.Buffer)
		defer putEncoder(b)
		b.Write(lead.frame[lead.sent:])
		for p := lead; p != last; {
			p = p.next
			b.Write(p.frame)
		}
		return wr.write(ctx, b.Bytes())
	case lead.body == nil:
		return wr.write(ctx, lead.frame[lead.sent:])
	case lead.sent >= len(lead.frame):
		return wr.write(ctx, lead.body[lead.sent-len(lead.frame):])
	}
	wr.intr.arm(ctx)
	wr.parts[0], wr.parts[1] = lead.frame[lead.sent:], lead.body
	wr.vec = wr.parts[:]
	written, err := wr.vec.WriteTo(wr.conn)
	wr.parts = [2][]byte{}
	return int(written), err
}

// write writes p. While the socket has room it does so without arming the context.
func (wr *writer) write(ctx context.Context, p []byte) (int, error) {
	if wr.raw == nil {
		wr.intr.arm(ctx)
		return wr.conn.Write(p)
	}
	wr.intr.keep(ctx)
	wr.ctx, wr.out, wr.written, wr.failed = ctx, p, 0, nil
	err := wr.raw.Write(wr.tryWrite)
	if err == nil {
		err = wr.failed
	}
	wr.ctx, wr.out = nil, nil
	return wr.written, err
}

// shut lets the peer, which waits for the rest of a frame that will not come, know. A TLS connection
// would wait for room to do so, and write it into the middle of a record.
func (c *Channel) shut() {
	if c.below != nil {
		closeWrite(c.below)
	} else {
		closeWrite(c.conn)
	}
}
