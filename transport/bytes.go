package transport

import (
	"github.com/fxamacker/cbor/v2"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
)

// Bytes is a field for many bytes in a message: on the wire it is what a []byte is, a CBOR byte string.
// When it is received its bytes are copied into the capacity that the field has already, so that a value
// that is received into again and again costs no memory after the first time; a []byte is fresh memory
// with every message, which costs more than all else from 64 KiB up.
//
//	var chunk struct {
//		Offset int64
//		Data   transport.Bytes
//	}
//	for {
//		if err := ch.Recv(ctx, &chunk); err != nil { ... }
//		file.WriteAt(chunk.Data, chunk.Offset) // done with it before the next Recv
//	}
type Bytes []byte

// UnmarshalCBOR decodes a byte string, or null, which leaves no bytes.
func (b *Bytes) UnmarshalCBOR(data []byte) error {
	major, _, size, content, err := strictcbor.Head(data)
	if err == nil && major == strictcbor.MajorBytes && size == uint64(len(content)) {
		*b = append((*b)[:0], content...)
		return nil
	}
	return b.unmarshalUnusual(data)
}

// unmarshalUnusual decodes what is not one byte string of a definite length.
func (b *Bytes) unmarshalUnusual(data []byte) error {
	var fresh []byte
	if err := decMode().Unmarshal(data, &fresh); err != nil {
		return err
	}
	*b = append((*b)[:0], fresh...)
	return nil
}

var _ cbor.Unmarshaler = (*Bytes)(nil)
