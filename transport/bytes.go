package transport

import "github.com/fxamacker/cbor/v2"

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
	head, size, ok := byteStringHead(data)
	if ok && size == uint64(len(data)-head) {
		*b = append((*b)[:0], data[head:]...)
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

// byteStringHead returns the size of a byte string's head (RFC 8949, 3) and of its content.
func byteStringHead(data []byte) (head int, size uint64, ok bool) {
	const byteString = 2 << 5
	if len(data) == 0 || data[0]&0xe0 != byteString {
		return 0, 0, false
	}
	info := data[0] & 0x1f
	if info < 24 {
		return 1, uint64(info), true
	}
	if info > 27 { // of indefinite length, or malformed
		return 0, 0, false
	}
	head = 1 + 1<<(info-24)
	if len(data) < head {
		return 0, 0, false
	}
	for _, digit := range data[1:head] {
		size = size<<8 | uint64(digit)
	}
	return head, size, true
}

var _ cbor.Unmarshaler = (*Bytes)(nil)
