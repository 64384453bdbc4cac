package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// How messages are encoded: times keep their nanoseconds and their zone (the library's default cuts
// to seconds), everything else as RFC 8949 prefers it.
var encMode = sync.OnceValue(func() cbor.UserBufferEncMode {
	mode, err := cbor.EncOptions{Time: cbor.TimeRFC3339Nano, TimeTag: cbor.EncTagRequired}.UserBufferEncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
})

// How messages are decoded. The frame limit bounds the size of what an authenticated peer can make
// us decode; the counts of elements need no smaller bound of their own. The library's default
// would refuse a slice of 200,000 numbers.
var decMode = sync.OnceValue(func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		MaxNestedLevels:  64,
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
})

const (
	lengthSize = 4              // the frame's length field
	headerSize = lengthSize + 1 // and the kind
)

// putHeader writes the header of a frame with a body of size bytes into b.
func putHeader(b []byte, kind Kind, size int) {
	binary.LittleEndian.PutUint32(b, uint32(size+1))
	b[lengthSize] = byte(kind)
}

// encoders holds the buffers of batches, and those in which the frames of several senders become one write.
var encoders = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxKept is the largest buffer that goes back into a pool. Fresh memory costs more than system calls
// from 64 KiB up, so it is generous; the garbage collector empties the pools of an idle program.
const maxKept = 4 << 20

func putEncoder(b *bytes.Buffer) {
	if b.Cap() <= maxKept {
		b.Reset()
		encoders.Put(b)
	}
}

// encodeMessage appends a whole frame of KindMessage with v to b.
func encodeMessage(b *bytes.Buffer, v any) error {
	var header [headerSize]byte
	start := b.Len()
	b.Write(header[:])
	if err := encMode().MarshalToBuffer(v, b); err != nil {
		return &EncodeError{Type: fmt.Sprintf("%T", v), Err: err}
	}
	frame := b.Bytes()[start:]
	putHeader(frame, KindMessage, len(frame)-headerSize)
	return nil
}

func decodeMessage(body []byte, v any) error {
	if err := decMode().Unmarshal(body, v); err != nil {
		if errors.Is(err, io.EOF) { // the body is too short; from a receive io.EOF means a goodbye
			err = fmt.Errorf("%w: %v", io.ErrUnexpectedEOF, err)
		}
		return &DecodeError{Type: fmt.Sprintf("%T", v), Size: len(body), Err: err}
	}
	return nil
}

// body is a buffer for the body of a message that does not fit into a channel's read buffer.
type body struct{ b []byte }

var bodies = sync.Pool{New: func() any { return new(body) }}

func putBody(b *body) {
	if cap(b.b) <= maxKept {
		b.b = b.b[:0]
		bodies.Put(b)
	}
}

// pooledBuffers holds read buffers that no channel has anything in.
var pooledBuffers = sync.Pool{New: func() any { return new([pooledBufferSize]byte) }}
