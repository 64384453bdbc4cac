package transport

import (
	"bytes"
	"context"
	"net"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
	"github.com/spawnwire/spawnwire/internal/slab"
)

// maxCopied is the largest raw body, in bytes, that is copied after its header for
// one write. A larger one is written with writev from the caller's memory.
const maxCopied = 8 << 10

// maxCombined is how many bytes of small frames share one write.
const maxCombined = 64 << 10

// writer is the sending half of a Channel. queue has its own lock. The goroutine of
// the place that leads queue owns all other fields.
type writer struct {
	queue sendQueue

	conn  net.Conn
	intr  interrupter
	plain bool        // see isPlain
	parts [2][]byte   // a header and a body for writev
	vec   net.Buffers // the unwritten rest of parts

	ring *slab.RingOut // where this side writes to; nil while that is the socket

	// The write under way.
	raw      syscall.RawConn    // for writes that do not block; nil where they are impossible
	tryWrite func(uintptr) bool // writeRaw
	noWait   bool               // writeRaw returns when the socket has no room
	ctx      context.Context
	out      []byte
	written  int // bytes of out
	failed   error
}

func (wr *writer) init(conn net.Conn, setDeadline func(time.Time) error) {
	wr.conn = conn
	wr.intr.setDeadline = setDeadline
	wr.plain = isPlain(conn)
}

// isPlain reports whether a write on conn that returns 0 bytes has written nothing. A
// TLS connection, and any of an unknown type, may have sent a part of a record.
func isPlain(conn net.Conn) bool {
	switch conn.(type) {
	case *net.UnixConn, *net.TCPConn:
		return true
	}
	return false
}

// Send encodes v as CBOR and sends it as one message. The peer receives it with Recv.
//
// If v has no encoding or is too large, the error is an [*EncodeError] or a
// [*SizeError], and nothing is sent. Send also refuses what Recv would refuse: text
// that is not UTF-8, arrays and maps more than 64 levels deep, and maps with arrays,
// maps or big numbers as keys.
//
// If ctx ends before a byte is written, the error is the context's. If it ends within
// the frame, the error also matches [ErrBroken], and nothing more can be sent. The
// others are [ErrPeerGone] and [ErrChannelClosed].
//
// After a nil error the kernel has the message, but perhaps not the peer. So the
// messages of one goroutine stay in their order, and Send blocks while the peer does
// not read.
func (c *Channel) Send(ctx context.Context, v any) (err error) {
	defer wrap("send", &err)
	p := places.Get().(*place)
	defer p.recycle()
	if err := encodeMessage(&p.buf, v); err != nil {
		return err
	}
	if err := c.checkSize(p.buf.Len() - lengthSize); err != nil {
		return err
	}
	p.frame = p.buf.Bytes()
	p.enters, p.large = true, len(p.frame)-headerSize >= minShared
	return c.write(ctx, p)
}

// SendBytes sends p as one message. The peer receives it with RecvBytes or
// RecvBorrowed. SendBytes does not change p and does not use it after it returns. The
// errors are those of Send.
func (c *Channel) SendBytes(ctx context.Context, p []byte) (err error) {
	defer wrap("send", &err)
	return c.writeFrame(ctx, frame.KindRaw, p, false)
}

// Write implements frame.Channel.
func (f frames) Write(ctx context.Context, all ...frame.Frame) (err error) {
	defer wrap("send", &err)
	p := places.Get().(*place)
	defer p.recycle()
	for _, one := range all {
		if err := f.c.checkSize(len(one.Body) + 1); err != nil {
			return err
		}
		appendFrame(&p.buf, one.Kind, one.Body)
	}
	if p.buf.Len() == 0 {
		return nil // a write of nothing would block on a net.Pipe
	}
	p.frame = p.buf.Bytes()
	return f.c.write(ctx, p)
}

// writeFrame sends one frame. last is for the goodbye, which is sent while the channel
// closes.
func (c *Channel) writeFrame(ctx context.Context, kind frame.Kind, body []byte, last bool) error {
	if err := c.checkSize(len(body) + 1); err != nil {
		return err
	}
	p := places.Get().(*place)
	defer p.recycle()
	if len(body) > maxCopied && c.wr.plain {
		appendHeader(&p.buf, kind, len(body))
		p.body = body
	} else {
		appendFrame(&p.buf, kind, body)
	}
	p.frame, p.last = p.buf.Bytes(), last
	p.enters = kind == frame.KindRaw
	p.large = p.enters && len(body) >= minShared
	return c.write(ctx, p)
}

func (c *Channel) checkSize(size int) error {
	if limit := c.maxFrameSize.Load(); int64(size) > limit {
		return &SizeError{Size: int64(size), Limit: limit}
	}
	return nil
}

func appendFrame(b *bytes.Buffer, kind frame.Kind, body []byte) {
	appendHeader(b, kind, len(body))
	b.Write(body)
}

func appendHeader(b *bytes.Buffer, kind frame.Kind, size int) {
	var header [headerSize]byte
	frame.PutHeader(header[:], kind, size)
	b.Write(header[:])
}

// canSend reports whether another send could succeed after one has failed.
func (c *Channel) canSend() bool {
	q := &c.wr.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err == nil && !c.closing.Load()
}

// write sends the frames of p. It waits until p leads the queue, or until another
// sender has written p.
func (c *Channel) write(ctx context.Context, p *place) error {
	if ctx.Err() != nil {
		return neterr.Context(ctx)
	}
	q := &c.wr.queue
	q.mu.Lock()
	if c.writeAtOnce(p) {
		q.mu.Unlock()
		return nil
	}
	q.push(p)
	if p.state != leading {
		q.mu.Unlock()
		if !c.waitInQueue(ctx, p) {
			return p.err
		}
		q.mu.Lock()
	}
	return c.lead(ctx, p)
}

// writeOut writes the frames of the places from lead to last, without the part of
// lead's frame that was written before. It returns the number of bytes. lead must be
// the first in the queue.
func (c *Channel) writeOut(ctx context.Context, lead, last *place) (n int, err error) {
	wr := &c.wr
	defer wr.intr.disarmUnlessRepeated()
	if lead.enters && lead.sent == 0 {
		c.beginRing()
	}
	if lead.large && lead.sent == 0 {
		if n, err, shared := c.writeShared(ctx, lead); shared {
			return n, err
		}
	}
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
	if wr.ring != nil {
		return wr.writeRing(ctx, lead.frame[lead.sent:], lead.body)
	}
	wr.intr.arm(ctx)
	wr.parts[0], wr.parts[1] = lead.frame[lead.sent:], lead.body
	wr.vec = wr.parts[:]
	written, err := wr.vec.WriteTo(wr.conn)
	wr.parts = [2][]byte{}
	return int(written), err
}

// write writes p. It arms ctx only if the socket has no room.
func (wr *writer) write(ctx context.Context, p []byte) (int, error) {
	switch {
	case wr.ring != nil:
		return wr.writeRing(ctx, p, nil)
	case wr.raw == nil:
		wr.intr.arm(ctx)
		return wr.conn.Write(p)
	}
	wr.intr.disarmUnlessFor(ctx)
	wr.ctx, wr.out, wr.written, wr.failed = ctx, p, 0, nil
	err := wr.raw.Write(wr.tryWrite)
	if err == nil {
		err = wr.failed
	}
	wr.ctx, wr.out = nil, nil
	return wr.written, err
}
