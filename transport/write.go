package transport

import (
	"bytes"
	"context"
	"fmt"
	"net"
)

// maxCopied is the largest raw body that is copied behind its header for one plain write. A larger
// one is written by writev from where it lies.
const maxCopied = 8 << 10

// writer is the sending half of a Channel. Whoever holds the turn owns all of it.
type writer struct {
	turn turn
	intr interrupter

	plain  bool // a write that timed out with no byte written has left no trace; see isPlain
	header [headerSize]byte
	parts  [2][]byte   // header and body for writev
	vec    net.Buffers // what is left of parts

	err error // what every further send returns
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
// peer has it.
func (c *Channel) Send(ctx context.Context, v any) error {
	if err := c.send(ctx, v); err != nil {
		return &Error{"send", err}
	}
	return nil
}

func (c *Channel) send(ctx context.Context, v any) error {
	b := encoders.Get().(*bytes.Buffer)
	defer putEncoder(b)
	if err := encodeMessage(b, v); err != nil {
		return err
	}
	if err := c.checkSize(b.Len() - lengthSize); err != nil {
		return err
	}
	return c.write(ctx, b.Bytes(), nil, false)
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
	b := encoders.Get().(*bytes.Buffer)
	defer putEncoder(b)
	for _, f := range frames {
		if err := c.checkSize(len(f.Body) + 1); err != nil {
			return &Error{"send", err}
		}
		appendFrame(b, f)
	}
	if b.Len() == 0 {
		return nil // some connections wait for a reader of nothing
	}
	if err := c.write(ctx, b.Bytes(), nil, false); err != nil {
		return &Error{"send", err}
	}
	return nil
}

// writeFrame sends one frame; last is for the goodbye, which is sent while the channel closes.
func (c *Channel) writeFrame(ctx context.Context, f Frame, last bool) error {
	if err := c.checkSize(len(f.Body) + 1); err != nil {
		return err
	}
	if len(f.Body) > maxCopied && c.wr.plain {
		return c.write(ctx, nil, &f, last)
	}
	b := encoders.Get().(*bytes.Buffer)
	defer putEncoder(b)
	appendFrame(b, f)
	return c.write(ctx, b.Bytes(), nil, last)
}

func appendFrame(b *bytes.Buffer, f Frame) {
	var header [headerSize]byte
	putHeader(header[:], f.Kind, len(f.Body))
	b.Write(header[:])
	b.Write(f.Body)
}

// sendable tells whether a later send may do better than one that failed.
func (c *Channel) sendable() bool {
	if c.wr.turn.take(context.Background(), c.closed) != nil {
		return false
	}
	defer c.wr.turn.give()
	return c.wr.err == nil && !c.closing.Load()
}

func (c *Channel) checkSize(size int) error {
	if limit := c.limit.Load(); int64(size) > limit {
		return &SizeError{Size: int64(size), Limit: limit}
	}
	return nil
}

// write sends p, or the frame large by writev, in this goroutine's turn.
func (c *Channel) write(ctx context.Context, p []byte, large *Frame, last bool) error {
	if ctx.Err() != nil {
		return newContextError(ctx)
	}
	wr := &c.wr
	if err := wr.turn.take(ctx, c.closed); err != nil {
		return err
	}
	defer wr.turn.give()
	if c.closing.Load() && !last {
		return ErrClosed
	}
	if wr.err != nil {
		return wr.err
	}
	wr.intr.arm(ctx)
	var n int64
	var err error
	if large == nil {
		var m int
		m, err = c.conn.Write(p)
		n = int64(m)
	} else {
		putHeader(wr.header[:], large.Kind, len(large.Body))
		wr.parts[0], wr.parts[1] = wr.header[:], large.Body
		wr.vec = wr.parts[:]
		n, err = wr.vec.WriteTo(c.conn)
		wr.parts[1] = nil
	}
	if err == nil {
		return nil
	}
	return c.writeError(ctx, n, err, last)
}

// writeError makes of a write that failed after n bytes what the sender gets, and what later ones do.
func (c *Channel) writeError(ctx context.Context, n int64, err error, last bool) error {
	wr := &c.wr
	if !isTimeout(err) {
		if c.closing.Load() && !last {
			err = ErrClosed
		}
		wr.err = netError(err)
		return wr.err
	}
	if ctx.Err() != nil {
		err = newContextError(ctx)
	}
	if n == 0 && wr.plain {
		return err // nothing was written
	}
	wr.err = ErrBroken
	// The peer waits for the rest of a frame that will not come: let it know. A TLS connection
	// would wait for room to do so, and write it into the middle of a record.
	if c.below != nil {
		closeWrite(c.below)
	} else {
		closeWrite(c.conn)
	}
	return fmt.Errorf("%w after %d bytes: %w", ErrBroken, n, err)
}
