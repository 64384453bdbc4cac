package transport

import (
	"bytes"
	"context"
)

// batchSize is how many bytes a Batch gathers before it writes them by itself: more in one write than that
// costs no less per message.
const batchSize = 64 << 10

// Batch gathers messages and sends many of them with one write, as a [bufio.Writer] does: for a
// stream of small messages, where the system call costs ten times what the message does. Make one with
// [Channel.NewBatch]. It is not for concurrent use; several batches of one channel, and the channel's own
// methods beside them, are.
//
// Send and SendBytes keep the message and write nothing until 64 KiB have gathered; [Batch.Flush] writes
// what there is. There is no timer: a message that is not flushed is not sent, also not by the channel's
// Close. The messages of a batch arrive in their order.
//
// A batch that is empty has no memory of its own.
type Batch struct {
	c   *Channel
	buf *bytes.Buffer // whole frames that are not written yet; nil when there are none
}

// NewBatch returns an empty batch.
func (c *Channel) NewBatch() *Batch { return &Batch{c: c} }

// Send adds v, encoded as CBOR, as one message of KindMessage. A nil error means that the batch has it, or
// that the kernel has it and all before it.
//
// Errors are those of [Channel.Send]. With any of them v is not part of the batch. When v could not be encoded
// or is too large, or ctx ended with nothing written, the messages before it still are.
func (b *Batch) Send(ctx context.Context, v any) error {
	err := b.add(ctx, func(buf *bytes.Buffer) error { return encodeMessage(buf, v) })
	if err != nil {
		return &Error{"send", err}
	}
	return nil
}

// SendBytes adds p as one message of KindRaw; p may be used again when it returns. Otherwise it is as Send.
func (b *Batch) SendBytes(ctx context.Context, p []byte) error {
	if err := b.sendBytes(ctx, p); err != nil {
		return &Error{"send", err}
	}
	return nil
}

func (b *Batch) sendBytes(ctx context.Context, p []byte) error {
	if err := b.c.checkSize(len(p) + 1); err != nil {
		return err
	}
	if len(p) < batchSize {
		return b.add(ctx, func(buf *bytes.Buffer) error {
			appendFrame(buf, Frame{KindRaw, p})
			return nil
		})
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	return b.c.writeFrame(ctx, Frame{KindRaw, p}, false) // from where it lies
}

func (b *Batch) add(ctx context.Context, encode func(*bytes.Buffer) error) error {
	if ctx.Err() != nil {
		return newContextError(ctx)
	}
	if b.buf == nil {
		b.buf = encoders.Get().(*bytes.Buffer)
	}
	before, added := b.buf.Len(), false
	defer func() {
		if !added && b.buf != nil {
			b.buf.Truncate(before) // also when the encoding of a value panics
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

// Flush writes what has gathered. A nil error means that the kernel has every message of the batch, not
// that the peer has. Without any it does nothing.
//
// Errors are those of [Channel.Send]: an ended ctx, nothing was written and the batch is as it was; with any
// other the channel can send no more, and what has gathered is dropped.
func (b *Batch) Flush(ctx context.Context) error {
	if err := b.flush(ctx); err != nil {
		return &Error{"send", err}
	}
	return nil
}

func (b *Batch) flush(ctx context.Context) error {
	if b.buf == nil || b.buf.Len() == 0 {
		return nil
	}
	p := places.Get().(*place)
	defer p.recycle()
	p.frame = b.buf.Bytes()
	err := b.c.write(ctx, p)
	if err == nil || !b.c.sendable() {
		putEncoder(b.buf)
		b.buf = nil
	}
	return err
}
