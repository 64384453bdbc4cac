package cbor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"unicode/utf8"
)

// Reader reads items of CBOR from untrusted bytes. It stops at its first error:
// from then on its methods return zero values, and End returns the error.
type Reader struct {
	rest   []byte
	err    error
	around int // arrays and maps around the next item
}

// NewReader returns a Reader of data. The byte strings from it are parts of data.
func NewReader(data []byte) *Reader { return &Reader{rest: data} }

// End returns the first error. It is also an error if bytes follow the last item.
func (r *Reader) End() error {
	if r.err == nil && len(r.rest) > 0 {
		r.Fail(fmt.Errorf("%d bytes too many", len(r.rest)))
	}
	return r.err
}

// Fail makes err the first error, if there is none yet.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}

// Uint reads an unsigned integer from least to most.
func (r *Reader) Uint(least, most uint64) uint64 {
	n := r.expect(majorUint, "an unsigned integer")
	if r.err == nil && (n < least || n > most) {
		r.Fail(fmt.Errorf("%d is out of range; want %d to %d", n, least, most))
	}
	if r.err != nil {
		return 0
	}
	return n
}

// Int reads an integer of 64 bits.
func (r *Reader) Int() int64 {
	major, n := byte(majorUint), uint64(0)
	if len(r.rest) > 0 && r.rest[0]>>5 == majorNegative {
		major, n = r.head()
	} else {
		n = r.expect(majorUint, "an integer")
	}
	if n > math.MaxInt64 {
		r.Fail(errors.New("out of range; want an integer of 64 bits"))
		return 0
	}
	if major == majorNegative {
		return ^int64(n)
	}
	return int64(n)
}

// Nanoseconds reads a time or a duration of 0 or more.
func (r *Reader) Nanoseconds() int64 { return int64(r.Uint(0, math.MaxInt64)) }

// Text reads text.
func (r *Reader) Text() string {
	return string(r.content(majorText, r.expect(majorText, "text")))
}

// Bytes reads a byte string.
func (r *Reader) Bytes() []byte {
	return r.content(majorBytes, r.expect(majorBytes, "a byte string"))
}

// Array reads the start of an array and returns the number of its elements. The
// caller reads the elements next.
func (r *Reader) Array() int {
	return r.count(r.expect(majorArray, "an array"))
}

// Texts reads an array of text. It allocates no memory for a text of known.
func (r *Reader) Texts(known ...string) []string {
	n := r.Array()
	if r.err != nil {
		return nil
	}
	texts := make([]string, n)
	for i := range texts {
		text := r.content(majorText, r.expect(majorText, "text"))
		if k := slices.IndexFunc(known, func(s string) bool { return s == string(text) }); k >= 0 {
			texts[i] = known[k]
		} else {
			texts[i] = string(text)
		}
	}
	return texts
}

// Map reads a map and calls value with each key. value reads the value and
// returns true, or it returns false for an unknown key. Then Map skips the
// value, because new versions of the protocol add keys. But the value has to be
// in the strict form too. An error of a value becomes a [*FieldError].
func (r *Reader) Map(value func(key []byte) bool) {
	if r.around >= MaxNesting {
		r.Fail(errTooDeep)
	}
	n := r.count(r.expect(majorMap, "a map"))
	var few [16][]byte
	keys := few[:0]
	r.around++
	for range n {
		if len(r.rest) > 0 && r.rest[0]>>5 != majorText {
			r.Fail(fmt.Errorf("a key is %s; want text", kind(r.rest)))
		}
		key := r.content(majorText, r.expect(majorText, "text"))
		if r.err != nil {
			return
		}
		if slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }) {
			r.Fail(errors.New("is there twice"))
		} else if !value(key) {
			r.skip()
		}
		if r.err != nil {
			r.err = inField(string(key), r.err)
			return
		}
		keys = append(keys, key)
	}
	r.around--
}

// maxField limits how many bytes of a key are repeated in an error, because the
// sender chooses the length.
const maxField = 64

func inField(key string, err error) error {
	if len(key) > maxField {
		key = key[:maxField] + "..."
	}
	var inner *FieldError
	if errors.As(err, &inner) {
		return &FieldError{Field: key + "." + inner.Field, Err: inner.Err}
	}
	return &FieldError{Field: key, Err: err}
}

// Opaque reads an item with a user's data and returns its encoding. The item must
// be well-formed, with no indefinite lengths. Arrays, maps and tags may nest at
// most nesting levels deep. Opaque checks neither for duplicate keys nor for the
// content of tags.
func (r *Reader) Opaque(nesting int) []byte {
	start := r.rest
	r.skipOpaque(nesting)
	if r.err != nil {
		return nil
	}
	n := len(start) - len(r.rest)
	return start[:n:n]
}

func (r *Reader) skipOpaque(nesting int) {
	major, n := r.head()
	each := 1 // how many items an element is
	switch major {
	case majorBytes, majorText:
		r.content(major, n)
		return
	case majorUint, majorNegative, majorSimple:
		return
	case majorTag:
		n = 1
	case majorMap:
		each = 2
	}
	if nesting == 0 {
		r.Fail(errTooDeep)
	}
	for ; n > 0 && r.err == nil; n-- {
		for range each {
			r.skipOpaque(nesting - 1)
		}
	}
}

var (
	errNotText = errors.New("text that is not UTF-8")
	errTooDeep = errors.New("too many levels of nesting")
)

// skip reads an item in the strict form.
func (r *Reader) skip() {
	if len(r.rest) == 0 {
		r.Fail(io.ErrUnexpectedEOF)
		return
	}
	switch first := r.rest[0]; first >> 5 {
	case majorArray:
		if r.around >= MaxNesting {
			r.Fail(errTooDeep)
		}
		r.around++
		for range r.Array() {
			r.skip()
		}
		r.around--
	case majorMap:
		r.Map(func([]byte) bool { return false })
	case majorTag, majorSimple:
		if first != initialFalse && first != initialTrue {
			r.Fail(errors.New(kind(r.rest) + " is not allowed here"))
		}
		r.head()
	default:
		if major, n := r.head(); major >= majorBytes {
			r.content(major, n)
		}
	}
}

// expect reads the head of an item of the given major type and returns its
// argument. Another type is an error.
func (r *Reader) expect(major byte, want string) uint64 {
	if len(r.rest) > 0 && r.rest[0]>>5 != major {
		r.Fail(fmt.Errorf("is %s; want %s", kind(r.rest), want))
	}
	_, n := r.head()
	return n
}

// count checks the number of elements or pairs.
func (r *Reader) count(n uint64) int {
	if n > MaxElements {
		r.Fail(fmt.Errorf("%d elements; at most %d", n, MaxElements))
		return 0
	}
	return int(n)
}

// content reads the n bytes of a string.
func (r *Reader) content(major byte, n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.Fail(io.ErrUnexpectedEOF)
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	if major == majorText && !utf8.Valid(b) {
		r.Fail(errNotText)
		return nil
	}
	r.rest = r.rest[n:]
	return b
}

// head reads the head of an item: its major type and its argument. An indefinite
// length is an error.
func (r *Reader) head() (major byte, n uint64) {
	next, major, open, n := itemHead(r.rest, 0)
	switch {
	case open:
		r.Fail(errors.New("an indefinite length is not allowed"))
		return 0, 0
	case next < 0:
		r.Fail(headError(r.rest))
		return 0, 0
	}
	r.rest = r.rest[next:]
	return major, n
}

// headError says why itemHead finds no head in data.
func headError(data []byte) error {
	if len(data) > 0 && data[0]&0x1f > 27 {
		return fmt.Errorf("reserved initial byte 0x%02x", data[0])
	}
	if len(data) > 1 && data[0] == initialSimple {
		return errors.New("a simple value that is not well-formed")
	}
	return io.ErrUnexpectedEOF
}
