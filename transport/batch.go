package transport

import (
	"bytes"
	"context"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
)

// batchSize is how many bytes a Batch collects before it writes them. A larger write
// costs no less per message.
const batchSize = 64 << 10

// Batch collects messages and sends many of them with one write, as a [bufio.Writer]
// does. It is for a stream of small messages. [Channel.NewBatch] makes one.
//
// Send and SendBytes collect messages and write when there are 64 KiB. [Batch.Flush]
// writes the rest. There is no timer, and the channel's Close does not flush. The
// messages of a batch arrive in their order.
//
// A Batch is not for concurrent use. But one channel may have several batches, and its
// own methods may be called concurrently with them.
type Batch struct {
	c   *Channel
	buf *bytes.Buffer // whole frames that are not written yet; nil if there are none
}

// NewBatch returns an empty batch. Until the first message it has no buffer.
func (c *Channel) NewBatch() *Batch { return &Batch{c: c} }

// Send encodes v as CBOR and adds it to the batch as one message. After a nil error v
// is in the batch, or the kernel has v and all messages before it.
//
// The errors are those of [Channel.Send]. After an error v is not in the batch. The
// earlier messages still are if v had no encoding or was too large, or if ctx ended
// before a byte was written.
func (b *Batch) Send(ctx context.Context, v any) (err error) {
	defer wrap("send", &err)
	return b.add(ctx, func(buf *bytes.Buffer) error { return encodeMessage(buf, v) })
}

// SendBytes adds p to the batch as one message. It does not use p after it returns.
// In all else it is like Send.
func (b *Batch) SendBytes(ctx context.Context, p []byte) (err error) {
	defer wrap("send", &err)
	if err := b.c.checkSize(len(p) + 1); err != nil {
		return err
	}
	if len(p) < batchSize {
		return b.add(ctx, func(buf *bytes.Buffer) error {
			appendFrame(buf, frame.KindRaw, p)
			return nil
		})
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	return b.c.writeFrame(ctx, frame.KindRaw, p, false) // without a copy
}

func (b *Batch) add(ctx context.Context, encode func(*bytes.Buffer) error) error {
	if ctx.Err() != nil {
		return neterr.Context(ctx)
	}
	if b.buf == nil {
		b.buf = encoders.Get().(*bytes.Buffer)
	}
	before, added := b.buf.Len(), false
	defer func() {
		if !added && b.buf != nil {
			b.buf.Truncate(before) // also if the encoding of a value panics
		}
	}()
	if err := encode(b.buf); err != nil {
		return err
	}
	if err := b.c.checkSize(b.buf.Len() - before - lengthSize); err != nil {
		return err
	}
	if b.buf.Len() >= batchSize {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	added = true
	return nil
}

// Flush writes the messages of the batch. After a nil error the kernel has them, but
// perhaps not the peer. Flush of an empty batch does nothing.
//
// The errors are those of [Channel.Send]. If ctx ends before a byte is written, the
// batch stays as it is. After any other error the channel cannot send any more, and
// the messages are dropped.
func (b *Batch) Flush(ctx context.Context) (err error) {
	defer wrap("send", &err)
	return b.flush(ctx)
}

func (b *Batch) flush(ctx context.Context) error {
	if b.buf == nil || b.buf.Len() == 0 {
		return nil
	}
	p := places.Get().(*place)
	defer p.recycle()
	p.frame, p.enters = b.buf.Bytes(), true
	err := b.c.write(ctx, p)
	if err == nil || !b.c.canSend() {
		putEncoder(b.buf)
		b.buf = nil
	}
	return err
}
