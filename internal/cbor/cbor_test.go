package cbor

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"

	library "github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// message is read and written by hand in these tests.
type message struct {
	A     uint64
	B     string
	C     []byte
	D     int64
	Inner struct{ E []string }
}

func (m *message) encode() []byte {
	w := NewWriter(0)
	w.Map(func() {
		w.IntField("a", int64(m.A))
		w.OptionalText("b", m.B)
		w.BytesField("c", m.C)
		w.OptionalInt("d", m.D)
		w.Key("inner")
		w.Map(func() {
			w.Key("e")
			w.Array(len(m.Inner.E))
			for _, s := range m.Inner.E {
				w.Text(s)
			}
		})
	})
	return w.Encoded()
}

func decode(data []byte) (m message, err error) {
	r := NewReader(data)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "a":
			m.A = r.Uint(0, 1000)
		case "b":
			m.B = r.Text()
		case "c":
			m.C = r.Bytes()
		case "d":
			m.D = r.Int()
		case "inner":
			r.Map(func(key []byte) bool {
				if string(key) != "e" {
					return false
				}
				m.Inner.E = r.Texts()
				return true
			})
		default:
			return false
		}
		return true
	})
	return m, r.End()
}

func TestWriter_WritesTheShortestForm(t *testing.T) {
	check := func(want any, write func(w *Writer)) {
		t.Helper()
		encoded, err := library.Marshal(want)
		require.NoError(t, err)
		var w Writer
		write(&w)
		require.Equal(t, encoded, w.Encoded(), "%v", want)
	}
	for _, n := range []uint64{0, 1, 23, 24, 255, 256, 1<<16 - 1, 1 << 16, 1<<32 - 1, 1 << 32,
		math.MaxInt64, math.MaxUint64} {
		check(n, func(w *Writer) { w.Uint(n) })
		check(int64(n), func(w *Writer) { w.Int(int64(n)) })
		check(^int64(n), func(w *Writer) { w.Int(^int64(n)) })
	}
	for _, n := range []int{0, 1, 23, 24, 255, 256, 1 << 16} {
		text := strings.Repeat("x", n)
		check(text, func(w *Writer) { w.Text(text) })
		check([]byte(text), func(w *Writer) { w.Bytes([]byte(text)) })
		check(strings.Split(text, ""), func(w *Writer) {
			w.Array(n)
			for range n {
				w.Text("x")
			}
		})
	}
	check(map[string]any{}, func(w *Writer) { w.Map(func() {}) })
	check(map[string]any{"a": map[string]int{}}, func(w *Writer) {
		w.Map(func() {
			w.OptionalInt("zero", 0)
			w.OptionalText("empty", "")
			w.OptionalRaw("a", []byte{0xa0})
		})
	})
}

func TestReader_ReadsWhatWriterWrites(t *testing.T) {
	for _, m := range []message{
		{},
		{A: 1000, B: "é", C: []byte{0, 1}, D: math.MinInt64},
		{D: math.MaxInt64, B: strings.Repeat("x", 70_000)},
	} {
		m.Inner.E = []string{"", "x", strings.Repeat("y", 300)}
		if m.C == nil {
			m.C = []byte{}
		}
		got, err := decode(m.encode())
		require.NoError(t, err)
		assert.Equal(t, m, got)
	}
}

func TestReader_TakesTheStrictForm(t *testing.T) {
	for name, data := range map[string]string{
		"known fields":    "\xa2\x61a\x01\x61b\x61x",
		"another order":   "\xa2\x61b\x61x\x61a\x01",
		"unknown fields":  "\xa3\x61a\x01\x61b\x61x\x61z\xa1\x61d\x80",
		"longer numbers":  "\xa2\x61a\x18\x01\x61b\x78\x01x",
		"false and true":  "\xa3\x61a\x01\x61b\x61x\x61z\x82\xf4\xf5",
		"bytes, negative": "\xa3\x61a\x01\x61b\x61x\x61z\x82\x41\xff\x20",
		"the deepest nested": "\xa3\x61a\x01\x61b\x61x\x61z" +
			strings.Repeat("\x81", MaxNesting-1) + "\x00",
		"the deepest maps": "\xa3\x61a\x01\x61b\x61x\x61z" +
			strings.Repeat("\xa1\x61x", MaxNesting-1) + "\x00",
		"the most elements": "\xa3\x61a\x01\x61b\x61x\x61z\x98\x40" +
			strings.Repeat("\x00", MaxElements),
		"the most pairs": "\xa3\x61a\x01\x61b\x61x\x61z\xb8\x40" + pairs(MaxElements),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := decode([]byte(data))
			require.NoError(t, err)
			assert.Equal(t, message{A: 1, B: "x"}, m)
		})
	}
}

// pairs returns n pairs of a map, each with its own key.
func pairs(n int) (encoded string) {
	for i := range n {
		encoded += fmt.Sprintf("\x63%03d\x00", i)
	}
	return encoded
}

func TestReader_RefusesOtherForms(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"nothing":              {"", "unexpected EOF"},
		"no map":               {"\x80", "is an array; want a map"},
		"a byte too many":      {"\xa1\x61a\x01\x00", "1 bytes too many"},
		"a key twice":          {"\xa2\x61a\x01\x61a\x01", `field "a": is there twice`},
		"an unknown key twice": {"\xa2\x61z\x01\x61z\x01", `field "z": is there twice`},
		"a key twice inside": {"\xa1\x61z\xa2\x61d\x00\x61d\x00",
			`field "z.d": is there twice`},
		"an indefinite length":        {"\xbf\x61a\x01\xff", "indefinite length"},
		"an indefinite length inside": {"\xa1\x61z\x9f\xff", "indefinite length"},
		"a tag": {"\xa1\x61a\xc1\x01",
			`field "a": is a tag; want an unsigned integer`},
		"a tag inside":            {"\xa1\x61z\x81\xc1\x01", "a tag is not allowed"},
		"text that is not UTF-8":  {"\xa1\x61z\x61\xff", "not UTF-8"},
		"a key that is not UTF-8": {"\xa1\x61\xff\x01", "not UTF-8"},
		"a surrogate":             {"\xa1\x61z\x63\xed\xa0\x80", "not UTF-8"},
		"too deep": {"\xa1\x61z" + strings.Repeat("\x81", MaxNesting) +
			"\x00", "levels of nesting"},
		"maps that are too deep": {strings.Repeat("\xa1\x61z", MaxNesting+1) +
			"\x00", "levels of nesting"},
		"too many elements": {"\xa1\x61z\x98\x41" + strings.Repeat("\x00", MaxElements+1),
			"65 elements; at most 64"},
		"too many pairs": {"\xb8\x41" + pairs(MaxElements+1),
			"65 elements; at most 64"},
		"too many pairs inside": {"\xa1\x61z\xb8\x41" + pairs(MaxElements+1),
			"65 elements; at most 64"},
		"another type": {"\xa1\x61a\x61x", "is text; want an unsigned integer"},
		"another type inside": {"\xa1\x65inner\xa1\x61e\x81\x01",
			`field "inner.e": is an unsigned integer; want text`},
		"null for a number":           {"\xa1\x61a\xf6", "is null"},
		"null for a text":             {"\xa1\x61b\xf6", "is null"},
		"null in an unknown field":    {"\xa1\x61z\x81\xf6", "null is not allowed"},
		"undefined":                   {"\xa1\x61a\xf7", "is undefined"},
		"a float":                     {"\xa1\x61z\xf9\x3c\x00", "a float is not allowed"},
		"a simple value for a number": {"\xa1\x61a\xe1", "is a simple value"},
		"a simple value in two bytes": {"\xa1\x61z\xf8\xff", "a simple value is not allowed"},
		"false in two bytes":          {"\xa1\x61z\xf8\x14", "a simple value is not allowed"},
		"a key that is a number":      {"\xa1\x01\x01", "a key is an unsigned integer; want text"},
		"a key that is bytes":         {"\xa1\x41a\x01", "a key is a byte string"},
		"a key that is a map, inside": {"\xa1\x61z\xa1\xa0\x01", "a key is a map"},
		"a reserved initial byte":     {"\xa1\x61z\x1c", "reserved initial byte 0x1c"},
		"a break":                     {"\xa1\x61z\xff", "a simple value is not allowed"},
		"a head that is cut":          {"\xa1\x61z\x19\x00", "unexpected EOF"},
		"a key that is cut":           {"\xa1\x62a", "unexpected EOF"},
		"a value that is cut":         {"\xa1\x61b\x62x", "unexpected EOF"},
		"a missing value":             {"\xa1\x61z", "unexpected EOF"},
		"a length that lies": {"\xa1\x61z\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
			"unexpected EOF"},
		"a number above its limit": {"\xa1\x61a\x19\x03\xe9",
			"1001 is out of range; want 0 to 1000"},
		"an integer above 63 bits": {"\xa1\x61d\x1b\x80\x00\x00\x00\x00\x00\x00\x00", "64 bits"},
		"an integer below 63 bits": {"\xa1\x61d\x3b\x80\x00\x00\x00\x00\x00\x00\x00", "64 bits"},
		"an integer that is text":  {"\xa1\x61d\x61x", "is text; want an integer"},
		"a long key, in part": {"\xa1\x78\x64" + strings.Repeat("k", 100) + "\xf6",
			`field "` + strings.Repeat("k", 64) + `...": null`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decode([]byte(c.data))
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestReader_KeepsItsFirstError(t *testing.T) {
	r := NewReader([]byte("\x01\x61x"))
	r.Fail(io.ErrClosedPipe)
	r.Fail(io.EOF)
	assert.Zero(t, r.Uint(1, 2))
	assert.Zero(t, r.Int())
	assert.Zero(t, r.Array())
	assert.Nil(t, r.Texts())
	assert.Nil(t, r.Bytes())
	assert.Nil(t, r.Opaque(1))
	r.Map(func([]byte) bool { t.Error("a pair"); return true })
	assert.Equal(t, io.ErrClosedPipe, r.End())
}

func TestByteString_IsOneWholeByteString(t *testing.T) {
	content, ok := ByteString([]byte("\x42ab"))
	assert.True(t, ok)
	assert.Equal(t, "ab", string(content))
	for _, data := range []string{"", "\x42a", "\x42abc", "\x62ab", "\xf6", "\x5f\x41a\xff"} {
		_, ok := ByteString([]byte(data))
		assert.False(t, ok, "%x", data)
	}
}

func TestOpaque_TakesWhatIsWellFormed(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"null":                        {"\xf6", ""},
		"a float":                     {"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00", ""},
		"a simple value":              {"\xf8\x20", ""},
		"a number under a date's tag": {"\xc0\x01", ""},
		"keys of any type, twice":     {"\xa3\x01\x01\x01\x01\x80\xf6", ""},
		"many elements":               {"\x99\x10\x00" + strings.Repeat("\x00", 4096), ""},
		"the deepest":                 {"\x81\xa1\x00\xc1\x00", ""},
		"an array that is too deep":   {"\x81\x81\x81\x81\x00", "levels of nesting"},
		"a tag that is too deep":      {"\x81\x81\x81\xc1\x00", "levels of nesting"},
		"a key that is too deep":      {"\x81\x81\x81\xa1\x81\x00\x00", "levels of nesting"},
		"text that is not UTF-8":      {"\x81\xa1\x01\x61\xe9", "not UTF-8"},
		"bytes that are not UTF-8":    {"\x41\xe9", ""},
		"an indefinite length":        {"\x9f\xff", "indefinite length"},
		"indefinite text":             {"\x7f\x61x\xff", "indefinite length"},
		"true in two bytes":           {"\xf8\x15", "not well-formed"},
		"a break":                     {"\xff", "reserved initial byte 0xff"},
		"a count that lies": {"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x00",
			"unexpected EOF"},
		"nothing": {"", "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader([]byte(c.data + "\x17"))
			item := r.Opaque(3)
			if c.data == "" {
				r = NewReader(nil)
				item = r.Opaque(3)
			}
			if c.want != "" {
				assert.Nil(t, item)
				assert.ErrorContains(t, r.End(), c.want)
				return
			}
			assert.Equal(t, c.data, string(item))
			assert.EqualValues(t, 23, r.Uint(0, 23), "the next item")
			assert.NoError(t, r.End())
		})
	}
}

// libraryModes returns modes of the CBOR library for the strict form and for
// Opaque. The library is laxer about simple values and null.
func libraryModes(t testing.TB) (strict, opaque library.DecMode) {
	options := library.DecOptions{
		IndefLength:       library.IndefLengthForbidden,
		FieldNameMatching: library.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   64, MaxArrayElements: math.MaxInt32, MaxMapPairs: math.MaxInt32,
	}
	opaque, err := options.DecMode()
	require.NoError(t, err)
	options.DupMapKey, options.TagsMd = library.DupMapKeyEnforcedAPF, library.TagsForbidden
	options.MaxNestedLevels, options.MaxArrayElements, options.MaxMapPairs = MaxNesting,
		MaxElements, MaxElements
	strict, err = options.DecMode()
	require.NoError(t, err)
	return strict, opaque
}

// messages returns the mode of package transport.
var messages = sync.OnceValue(func() library.DecMode {
	mode, err := library.DecOptions{MaxNestedLevels: MaxMessageNesting,
		MaxArrayElements: math.MaxInt32, MaxMapPairs: math.MaxInt32}.DecMode()
	if err != nil {
		panic(err)
	}
	return mode
})

// agree decodes data with the Reader and with the library. The library must take
// everything that the Reader takes, and Opaque everything that the library takes.
func agree(t testing.TB, strict, opaque library.DecMode, data []byte) (taken bool) {
	m, err := decode(data)
	if err == nil {
		var want struct {
			A     uint64 `cbor:"a"`
			B     string `cbor:"b"`
			C     []byte `cbor:"c"`
			D     int64  `cbor:"d"`
			Inner struct {
				E []string `cbor:"e"`
			} `cbor:"inner"`
		}
		require.NoError(t, strict.Unmarshal(data, &want), "%x", data)
		require.Equal(t, want.A, m.A, "%x", data)
		require.Equal(t, want.B, m.B, "%x", data)
		require.True(t, bytes.Equal(want.C, m.C), "%x", data)
		require.Equal(t, want.D, m.D, "%x", data)
		require.Equal(t, len(want.Inner.E), len(m.Inner.E), "%x", data)
	}
	r := NewReader(data)
	r.Opaque(64)
	wellFormed := r.End()
	if wellFormed == nil {
		require.NoError(t, opaque.Wellformed(data), "%x", data)
	}
	if err == nil {
		require.NoError(t, wellFormed, "the strict form is well-formed: %x", data)
	}
	if CheckMessage(data) == nil {
		require.NoError(t, messages().Wellformed(data), "%x", data)
	}
	var v any
	if opaque.Unmarshal(data, &v) == nil {
		deeper := NewReader(data)
		deeper.Opaque(1 << 10) // the library does not count each tag
		require.NoError(t, deeper.End(), "%x", data)
	}
	return err == nil
}

// TestReader_AgreesWithTheLibrary changes each byte of a message to each other
// value, and cuts the message.
func TestReader_AgreesWithTheLibrary(t *testing.T) {
	strict, opaque := libraryModes(t)
	m := message{A: 300, B: "é", C: []byte{1}, D: -5}
	m.Inner.E = []string{"x", ""}
	whole := m.encode()
	taken, others := 0, 0
	for i := range whole {
		for b := range 256 {
			changed := bytes.Clone(whole)
			changed[i] = byte(b)
			if agree(t, strict, opaque, changed) {
				taken++
			} else {
				others++
			}
		}
		agree(t, strict, opaque, whole[:i])
	}
	assert.Greater(t, taken, 500)
	assert.Greater(t, others, taken)
}

func FuzzReader(f *testing.F) {
	strict, opaque := libraryModes(f)
	m := message{A: 300, B: "é", C: []byte{1}, D: -5}
	m.Inner.E = []string{"x", ""}
	f.Add(m.encode())
	f.Add([]byte("\xa2\x61zc\xa1\x61d\x80\x61y\x82\xf4\xf5"))
	f.Add([]byte("\xa1\x01\xc1\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) { agree(t, strict, opaque, data) })
}
