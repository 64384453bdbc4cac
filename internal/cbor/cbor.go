// Package cbor reads and writes the CBOR (RFC 8949) of the protocol's own
// messages, in the strict form of docs/PROTOCOL.md, section 2.4. A [Writer]
// writes them and a [Reader] reads them, field by field and with no reflection,
// because a child does both before anything in its process is warm
// (docs/performance.md). Values of the programs' own are encoded and decoded by
// github.com/fxamacker/cbor.
package cbor

import "strconv"

// Limits of the strict form.
const (
	MaxNesting  = 8  // arrays and maps around each other
	MaxElements = 64 // of an array, or pairs of a map
)

// The major types of RFC 8949, section 3.1.
const (
	majorUint = iota
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

// The initial bytes of false and true, and the first one of a float.
const (
	initialFalse = 0xf4
	initialTrue  = 0xf5
	initialFloat = 0xf9
	// the initial byte of a simple value in two bytes
	initialSimple = 0xf8
)

// FieldError is an error in the value of a map's field.
type FieldError struct {
	Field string // its key; "parent.id" for a field of a map inside
	Err   error
}

func (e *FieldError) Error() string {
	return "field " + strconv.Quote(e.Field) + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// ByteString returns the content of data, and reports whether data is one byte
// string of a definite length and nothing else. The content is a part of data.
func ByteString(data []byte) (content []byte, ok bool) {
	if len(data) == 0 || data[0]>>5 != majorBytes {
		return nil, false
	}
	r := Reader{rest: data}
	content = r.Bytes()
	return content, r.End() == nil
}

// kinds names the major types.
var kinds = [...]string{
	"an unsigned integer", "a negative integer", "a byte string", "text", "an array", "a map",
	"a tag", "a simple value",
}

// kind names the first item of data, which must not be empty, for an error.
func kind(data []byte) string {
	switch first := data[0]; first {
	case initialFalse, initialTrue:
		return "a boolean"
	case 0xf6:
		return "null"
	case 0xf7:
		return "undefined"
	case initialFloat, initialFloat + 1, initialFloat + 2:
		return "a float"
	default:
		return kinds[first>>5]
	}
}
