// Package values encodes and decodes the values of the programs' own as CBOR, for
// messages and for calls.
package values

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"

	wire "github.com/spawnwire/spawnwire/internal/cbor"
)

// encMode encodes in the preferred form of RFC 8949. Times keep their nanoseconds
// and their zone; the library's default cuts them to seconds.
var encMode = sync.OnceValue(func() cbor.UserBufferEncMode {
	mode, err := cbor.EncOptions{Time: cbor.TimeRFC3339Nano,
		TimeTag: cbor.EncTagRequired}.UserBufferEncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
})

// decMode decodes a map into an any as a map[string]any.
var decMode = sync.OnceValue(func() cbor.DecMode {
	return newDecMode(reflect.TypeFor[map[string]any]())
})

// anyKeyDecMode is decMode for values with a key that is not text. Maps become
// map[any]any.
var anyKeyDecMode = sync.OnceValue(func() cbor.DecMode {
	return newDecMode(reflect.TypeFor[map[any]any]())
})

// newDecMode sets no limit on the number of elements, because the limit for frames
// is enough. The library's default would refuse a slice of 200,000 numbers.
func newDecMode(maps reflect.Type) cbor.DecMode {
	mode, err := cbor.DecOptions{
		DefaultMapType:   maps,
		MaxNestedLevels:  wire.MaxMessageNesting,
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
}

// Encode appends v to b.
func Encode(b *bytes.Buffer, v any) error {
	start := b.Len()
	if err := encMode().MarshalToBuffer(v, b); err != nil {
		return err
	}
	return wire.CheckMessage(b.Bytes()[start:])
}

// Decode decodes data, which is one whole item, into v, a pointer. Its errors do
// not match io.EOF, because that means a goodbye.
func Decode(data []byte, v any) error {
	err := decMode().Unmarshal(data, v)
	if err != nil && isOtherType(err) {
		err = anyKeyDecMode().Unmarshal(data, v)
	}
	if errors.Is(err, io.EOF) { // data is too short
		err = fmt.Errorf("%w: %v", io.ErrUnexpectedEOF, err)
	}
	return err
}

// isOtherType reports whether a value did not fit. A key that is not text does not
// fit a map[string]any.
func isOtherType(err error) bool {
	var other *cbor.UnmarshalTypeError
	return errors.As(err, &other)
}
