package spawnspec

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
)

// Maps are taken apart here, item by item, and not decoded by the CBOR library as a whole. So every
// error can name its field, counts are looked at before memory is spent on them, and nothing is let
// through out of kindness: the library takes null for an empty text and looks through some tags.

const (
	maxFields = 256 // fields of one map, known or not

	// Levels of arrays and maps that a value may have, seen from the outside: the spec's own
	// map is one of them.
	maxNesting       = 8
	maxOpaqueNesting = 64
)

// The major types of RFC 8949, section 3.1.
const (
	majorUint     = 0
	majorNegative = 1
	majorBytes    = 2
	majorText     = 3
	majorArray    = 4
	majorMap      = 5
	majorTag      = 6
)

type cborModes struct {
	enc      cbor.EncMode
	plain    cbor.DecMode // for the fields of the spec
	args     cbor.DecMode // for args, and vars as a whole
	variable cbor.DecMode // for one of the vars
}

// modes makes the CBOR modes when they are first used: a program that spawns nothing and was not
// spawned does not pay for them at its start.
var modes = sync.OnceValue(func() cborModes {
	encoding := cbor.CoreDetEncOptions()
	encoding.Time = cbor.TimeRFC3339Nano // the default cuts to seconds
	encoding.TimeTag = cbor.EncTagRequired
	enc, err := encoding.EncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	decoding := func(nesting int) cbor.DecMode {
		mode, err := cbor.DecOptions{
			DupMapKey:        cbor.DupMapKeyEnforcedAPF,
			IndefLength:      cbor.IndefLengthForbidden,
			MaxNestedLevels:  nesting,
			MaxArrayElements: math.MaxInt32,
			MaxMapPairs:      math.MaxInt32,
		}.DecMode()
		if err != nil {
			panic(err)
		}
		return mode
	}
	return cborModes{
		enc:      enc,
		plain:    decoding(maxNesting - 1), // without the spec's own map
		args:     decoding(maxOpaqueNesting - 1),
		variable: decoding(maxOpaqueNesting - 2), // and without the map of vars
	}
})

// field is one pair of a map.
type field struct {
	name  string
	value cbor.RawMessage // nil when it was taken
}

// fewFields is how many fields are looked through faster than they are found in a Go map, by code that has not run for a while.
const fewFields = 32

// usualFields is for how many fields there is room at least, so that the memory for one spec is of the size of that for another: a
// child that has decoded an example has it at hand.
const usualFields = 16

// readMap takes a map apart that has at most limit fields and must fill data to its end. Values are
// parts of data. Prefix is what the map's field names begin with in errors; for the spec itself it is "".
func readMap(data []byte, prefix string, limit int) ([]field, error) {
	// fail blames the map as a whole.
	fail := func(reason string, err error) error {
		if prefix != "" {
			return &FieldError{Field: strings.TrimSuffix(prefix, "."), Reason: reason, Err: err}
		}
		if err != nil {
			return fmt.Errorf("spawnspec: malformed: %s: %w", reason, err)
		}
		return errors.New("spawnspec: malformed: " + reason)
	}
	kind, n, rest, err := readHead(data)
	if err != nil {
		return nil, fail("bad start", err)
	}
	if kind != majorMap {
		return nil, fail("is "+kindOf(data)+"; want a map", nil)
	}
	if n > uint64(limit) {
		return nil, fail(fmt.Sprintf("%d fields; at most %d", n, limit), nil)
	}
	fields := make([]field, 0, min(max(n, usualFields), maxFields))
	var many map[string]bool // the names, when they are many
	if n > fewFields {
		many = make(map[string]bool, min(n, maxFields))
	}
	for range n {
		if len(rest) > 0 && major(rest) != majorText {
			return nil, fail("a key is "+kindOf(rest)+"; want text", nil)
		}
		text, rest1, ok := plainText(rest)
		key := string(text)
		if rest = rest1; !ok {
			if rest, err = modes().plain.UnmarshalFirst(rest, &key); err != nil {
				return nil, fail("bad key", cut(err))
			}
		}
		if reason := badName(key); reason != "" {
			return nil, fail("a key: "+reason, nil)
		}
		if many[key] || many == nil && find(fields, key) != nil {
			return nil, &FieldError{Field: prefix + key, Reason: "is there twice"}
		}
		var value cbor.RawMessage
		if value, rest, err = nextItem(modeOf(prefix, key), rest); err != nil {
			return nil, &FieldError{Field: prefix + key, Err: err}
		}
		fields = append(fields, field{key, value})
		if many != nil {
			many[key] = true
		}
	}
	if len(rest) > 0 {
		return nil, fail(fmt.Sprintf("%d bytes follow the map", len(rest)), nil)
	}
	return fields, nil
}

// modeOf returns what decodes a field.
func modeOf(prefix, key string) func() cbor.DecMode {
	switch {
	case prefix == "" && (key == "args" || key == "vars"):
		return argsMode
	case prefix == "vars.":
		return variableMode
	}
	return plainMode
}

func plainMode() cbor.DecMode    { return modes().plain }
func argsMode() cbor.DecMode     { return modes().args }
func variableMode() cbor.DecMode { return modes().variable }

// find returns the field of a name, or nil.
func find(fields []field, name string) *field {
	for i := range fields {
		if fields[i].name == name {
			return &fields[i]
		}
	}
	return nil
}

// nextItem cuts the first item off data and checks its form.
func nextItem(mode func() cbor.DecMode, data []byte) (item cbor.RawMessage, rest []byte, err error) {
	if rest, ok := plainItem(data); ok {
		return data[:len(data)-len(rest)], rest, nil
	}
	if rest, err = mode().UnmarshalFirst(data, new(skipped)); err != nil {
		return nil, nil, cut(err)
	}
	return data[:len(data)-len(rest)], rest, nil
}

// plainItem returns what is behind the first item of data, if that is an unsigned integer or a text and good. Most fields
// are, and a child that has its orders waits for the library to look at what they are, cold.
func plainItem(data []byte) (rest []byte, ok bool) {
	kind, _, rest, err := readHead(data)
	if err == nil && kind == majorUint {
		return rest, true
	}
	_, rest, ok = plainText(data)
	return rest, ok
}

// plainText returns the first item of data, and what is behind it, if it is a text and good; else data itself.
func plainText(data []byte) (text, rest []byte, ok bool) {
	kind, n, rest, err := readHead(data)
	if err != nil || kind != majorText || n > uint64(len(rest)) || !utf8.Valid(rest[:n]) {
		return nil, data, false
	}
	return rest[:n], rest[n:], true
}

// checkItem checks that raw is one item in a form that mode takes.
func checkItem(mode func() cbor.DecMode, raw cbor.RawMessage) error {
	_, rest, err := nextItem(mode, raw)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow the first item", len(rest))
	}
	return err
}

// skipped is an item that is only checked: a RawMessage would copy it and lose some of its tags.
type skipped struct{}

func (*skipped) UnmarshalCBOR([]byte) error { return nil }

// cut makes the end of data in an item an unexpected one.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readHead reads the head of the first item of data (RFC 8949, section 3): its major type and its
// argument. For an array or a map the argument is the number of elements or of pairs, and rest holds them.
func readHead(data []byte) (kind byte, n uint64, rest []byte, err error) {
	kind, _, n, rest, err = strictcbor.Head(data)
	switch {
	case err == nil, err == io.ErrUnexpectedEOF:
		return kind, n, rest, err
	case data[0]&0x1f == 31:
		return 0, 0, nil, errors.New("indefinite length is not allowed")
	}
	return 0, 0, nil, fmt.Errorf("reserved initial byte 0x%02x", data[0])
}

// major returns the major type of the first item of data, which must not be empty.
func major(data []byte) byte { return data[0] >> 5 }

// kindOf names the first item of data for an error. Data must not be empty.
func kindOf(data []byte) string {
	switch major(data) {
	case majorUint:
		return "an unsigned integer"
	case majorNegative:
		return "a negative integer"
	case majorBytes:
		return "a byte string"
	case majorText:
		return "text"
	case majorArray:
		return "an array"
	case majorMap:
		return "a map"
	case majorTag:
		return "a tagged item"
	}
	switch data[0] {
	case 0xf4, 0xf5:
		return "a boolean"
	case 0xf6:
		return "null"
	case 0xf7:
		return "undefined"
	case 0xf9, 0xfa, 0xfb:
		return "a float"
	}
	return "a simple value"
}
