package transport

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/fxamacker/cbor/v2"

	wire "github.com/spawnwire/spawnwire/internal/cbor"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/values"
)

const (
	headerSize = frame.HeaderSize
	lengthSize = headerSize - 1 // of the frame's length field
)

// encoders has buffers for batches and for the frames of several senders.
var encoders = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxKept is the largest buffer that goes back into a pool. It is generous, because
// from 64 KiB up new memory costs more than a system call. The garbage collector
// empties the pools of an idle program.
const maxKept = 4 << 20

func putEncoder(b *bytes.Buffer) {
	if b.Cap() <= maxKept {
		b.Reset()
		encoders.Put(b)
	}
}

// encodeMessage appends a whole frame of KindMessage to b.
func encodeMessage(b *bytes.Buffer, v any) error {
	var header [headerSize]byte
	start := b.Len()
	b.Write(header[:])
	if err := values.Encode(b, v); err != nil {
		return &EncodeError{Type: fmt.Sprintf("%T", v), Err: err}
	}
	encoded := b.Bytes()[start:]
	frame.PutHeader(encoded, frame.KindMessage, len(encoded)-headerSize)
	return nil
}

func decodeMessage(body []byte, v any) error {
	if err := values.Decode(body, v); err != nil {
		return &DecodeError{Type: fmt.Sprintf("%T", v), Err: err, size: len(body)}
	}
	return nil
}

// Bytes is a field for many bytes in a message. On the wire it is a CBOR byte string,
// like a []byte. A receive copies the bytes into the field's capacity if it is large
// enough, but makes new memory for a []byte.
//
//	var chunk struct {
//		Offset int64
//		Data   transport.Bytes
//	}
//	for {
//		if err := ch.Recv(ctx, &chunk); err != nil { ... }
//		file.WriteAt(chunk.Data, chunk.Offset) // the next Recv overwrites chunk.Data
//	}
//
// A nil Bytes is sent as null and an empty one as an empty byte string. A field that is
// absent from a message, as omitempty makes it, keeps the bytes of the message before.
type Bytes []byte

// UnmarshalCBOR decodes a byte string. Null gives nil, and an empty byte string never
// does, as with a []byte: so what is received and sent on stays the same.
func (b *Bytes) UnmarshalCBOR(data []byte) error {
	content, ok := wire.ByteString(data)
	if !ok {
		var other []byte // a variable of its own, because it escapes to the heap
		if err := values.Decode(data, &other); err != nil {
			return err
		}
		if content = other; content == nil {
			*b = nil
			return nil
		}
	}
	if *b == nil {
		*b = Bytes{}
	}
	*b = append((*b)[:0], content...)
	return nil
}

var _ cbor.Unmarshaler = (*Bytes)(nil)
