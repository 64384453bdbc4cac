// Package strictcbor decodes the maps that the protocol itself defines, as docs/PROTOCOL.md, section 2.4, has it:
// whoever sends them may be a stranger.
package strictcbor

import (
	"errors"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// MaxNesting is how many arrays and maps a message may have around each other, and MaxElements how many
// elements an array, or pairs a map.
const (
	MaxNesting  = 8
	MaxElements = 64
)

// No duplicate keys, no indefinite lengths, no tags, nothing deep or long. The one mode refuses keys that it
// does not know, the other ignores them.
var (
	strict   = sync.OnceValue(func() cbor.DecMode { return decMode(cbor.ExtraDecErrorUnknownField) })
	tolerant = sync.OnceValue(func() cbor.DecMode { return decMode(cbor.ExtraDecErrorNone) })
)

func decMode(extra cbor.ExtraDecErrorCond) cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  MaxNesting,
		MaxArrayElements: MaxElements,
		MaxMapPairs:      MaxElements,
		// Otherwise "ID" would do for "id" here and nowhere else.
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		ExtraReturnErrors: extra,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}

// Decode decodes data, one item and nothing behind it, into what v points to. Keys of maps that v does not have
// are ignored: that is how the protocol grows. But what is in them obeys the same rules.
func Decode(data []byte, v any) error {
	err := strict().Unmarshal(data, v)
	var unknown *cbor.UnknownFieldError
	if errors.As(err, &unknown) {
		// The library skips an unknown field without a look for duplicate keys.
		if err = tolerant().Unmarshal(data, new(any)); err == nil {
			err = tolerant().Unmarshal(data, v)
		}
	}
	return err
}
