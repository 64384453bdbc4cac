package call

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/values"
)

// encoded is a frame with a message, before its headers are set.
type encoded struct {
	buf   bytes.Buffer
	value int // where the message begins in buf
}

var encodedPool = sync.Pool{New: func() any { return new(encoded) }}

// newEncoded returns an empty frame, with room for its headers.
func newEncoded() *encoded {
	e := encodedPool.Get().(*encoded)
	var room [bodyStart]byte
	e.buf.Reset()
	e.buf.Write(room[:])
	e.value = bodyStart
	return e
}

func (e *encoded) recycle() {
	if e != nil && e.buf.Cap() <= maxKept {
		encodedPool.Put(e)
	}
}

// newOpening returns an open frame without its message.
func newOpening(ctx context.Context, method string) (*encoded, error) {
	o := opening{method: method}
	if m := MetadataOf(ctx); m != nil {
		var err error
		if o.metadata, err = m.encode(); err != nil {
			return nil, localError(method, CodeTooLarge, err)
		}
	}
	e := newEncoded()
	o.appendTo(&e.buf)
	e.value = e.buf.Len()
	return e, nil
}

// newRequest returns an open frame with its message. The caller recycles it.
func newRequest[Req any](
	ctx context.Context, method string, reqs *box[Req], req Req,
) (*encoded, error) {
	e, err := newOpening(ctx, method)
	if err != nil {
		return nil, err
	}
	if err := reqs.encode(e, req); err != nil {
		e.recycle()
		return nil, localError(method, CodeInvalid, fmt.Errorf("the request: %w", err))
	}
	return e, nil
}

// setTimeout sets the remaining time in an open frame.
func (e *encoded) setTimeout(left time.Duration) {
	binary.LittleEndian.PutUint64(e.buf.Bytes()[bodyStart:], uint64(left))
}

// message returns the encoded message.
func (e *encoded) message() []byte { return e.buf.Bytes()[e.value:] }

// withoutMessage returns the frame without the message.
func (e *encoded) withoutMessage() []byte { return e.buf.Bytes()[:e.value] }

// box lends pointers to values to the encoder and the decoder. So a call does not
// allocate them.
type box[T any] struct{ pool sync.Pool }

func (b *box[T]) get() *T {
	if p, ok := b.pool.Get().(*T); ok {
		return p
	}
	return new(T)
}

func (b *box[T]) put(p *T) {
	var zero T
	*p = zero
	b.pool.Put(p)
}

// encode appends v to e as its message.
func (b *box[T]) encode(e *encoded, v T) error {
	p := b.get()
	defer b.put(p)
	*p = v
	return values.Encode(&e.buf, p)
}

// decode decodes a message.
func (b *box[T]) decode(m *message) (v T, err error) {
	p := b.get()
	defer b.put(p)
	err = values.Decode(m.b, p)
	return *p, err
}
