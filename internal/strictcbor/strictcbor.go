// Package strictcbor decodes the maps that the protocol itself defines, as docs/PROTOCOL.md, section 2.4, has it:
// whoever sends them may be a stranger.
package strictcbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// MaxNesting is how many arrays and maps a message may have around each other, and MaxElements how many
// elements an array, or pairs a map.
const (
	MaxNesting  = 8
	MaxElements = 64
)

// Otherwise "ID" would do for "id" here and nowhere else.
var mode = sync.OnceValue(func() cbor.DecMode {
	mode, err := cbor.DecOptions{FieldNameMatching: cbor.FieldNameMatchingCaseSensitive}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
})

// Decode decodes data, one item and nothing behind it, into what v points to. Keys of maps that v does not have
// are ignored: that is how the protocol grows. But what is in them obeys the same rules.
func Decode(data []byte, v any) error {
	if err := Check(data, 0); err != nil {
		return err
	}
	return mode().Unmarshal(data, v)
}

// Check checks that data is one item in the strict form, with nothing behind it. The item stands in as many arrays and
// maps as around says. The errors have no part of data in them.
//
// The CBOR library does not do for this: it takes null, or a simple value, in the place of a number.
func Check(data []byte, around int) error {
	rest, err := check(data, around)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	return err
}

// The major types of RFC 8949, section 3.1; MajorBytes is that of a byte string.
const (
	MajorBytes  = 2
	majorText   = 3
	majorArray  = 4
	majorMap    = 5
	majorTag    = 6
	majorSimple = 7
)

// check checks the first item of b and returns what is behind it.
func check(b []byte, around int) (rest []byte, err error) {
	major, info, n, b, err := Head(b)
	if err != nil {
		return nil, err
	}
	switch major {
	case MajorBytes, majorText:
		switch {
		case n > uint64(len(b)):
			return nil, io.ErrUnexpectedEOF
		case major == majorText && !utf8.Valid(b[:n]):
			return nil, errors.New("text that is not UTF-8")
		}
		return b[n:], nil
	case majorArray, majorMap:
		switch {
		case around >= MaxNesting:
			return nil, fmt.Errorf("more than %d levels of nesting", MaxNesting)
		case n > MaxElements:
			return nil, fmt.Errorf("an array or map of %d; at most %d", n, MaxElements)
		case major == majorMap:
			return checkPairs(b, int(n), around+1)
		}
		for range n {
			if b, err = check(b, around+1); err != nil {
				return nil, err
			}
		}
	case majorTag:
		return nil, errors.New("a tag")
	case majorSimple:
		if info != 20 && info != 21 {
			return nil, errors.New("neither false nor true, but null, a float, or another simple value")
		}
	}
	return b, nil
}

// checkPairs checks the pairs of a map.
func checkPairs(b []byte, n, around int) (rest []byte, err error) {
	keys := make(map[string]bool, n)
	for range n {
		major, _, size, text, err := Head(b)
		if err == nil && major != majorText {
			err = errors.New("a key that is not text")
		}
		if err != nil {
			return nil, err
		}
		if b, err = check(b, around); err != nil {
			return nil, err
		}
		key := string(text[:size])
		if keys[key] {
			return nil, errors.New("a key that is there twice")
		}
		keys[key] = true
		if b, err = check(b, around); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// AppendHead appends the head of an item, in its shortest form, to b.
func AppendHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// Head takes the head of an item (RFC 8949, section 3) from the front of b: major type, additional information, and
// argument.
func Head(b []byte) (major, info byte, n uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, 0, nil, io.ErrUnexpectedEOF
	}
	major, info, b = b[0]>>5, b[0]&0x1f, b[1:]
	if info < 24 {
		return major, info, uint64(info), b, nil
	}
	if info > 27 {
		return 0, 0, 0, nil, errors.New("an indefinite length, or a reserved initial byte")
	}
	size := 1 << (info - 24)
	if len(b) < size {
		return 0, 0, 0, nil, io.ErrUnexpectedEOF
	}
	for _, c := range b[:size] {
		n = n<<8 | uint64(c)
	}
	return major, info, n, b[size:], nil
}
