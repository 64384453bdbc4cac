package strictcbor_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
)

type message struct {
	A int    `cbor:"a"`
	B string `cbor:"b"`
}

func TestWhatIsInTheFormIsDecoded(t *testing.T) {
	for name, data := range map[string]string{
		"known fields":       "\xa2\x61a\x01\x61b\x61x",
		"another order":      "\xa2\x61b\x61x\x61a\x01",
		"unknown fields":     "\xa3\x61a\x01\x61b\x61x\x61c\xa1\x61d\x80",
		"longer numbers":     "\xa2\x61a\x18\x01\x61b\x78\x01x",
		"false and true":     "\xa3\x61a\x01\x61b\x61x\x61c\x82\xf4\xf5",
		"the deepest nested": "\xa3\x61a\x01\x61b\x61x\x61c" + strings.Repeat("\x81", strictcbor.MaxNesting-1) + "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			var m message
			require.NoError(t, strictcbor.Decode([]byte(data), &m))
			assert.Equal(t, message{1, "x"}, m)
		})
	}
}

// pairs returns so many pairs of a map.
func pairs(n int) (encoded string) {
	for i := range n {
		encoded += "\x62" + string([]byte{'a' + byte(i>>5), 'a' + byte(i&15)}) + "\x00"
	}
	return encoded
}

func TestWhatIsNotInTheFormIsRefused(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":                     "",
		"a byte too many":             "\xa1\x61a\x01\x00",
		"a key twice":                 "\xa2\x61a\x01\x61a\x01",
		"an unknown key twice":        "\xa2\x61c\x01\x61c\x01",
		"a key twice inside":          "\xa1\x61c\xa2\x61d\x00\x61d\x00",
		"an indefinite length":        "\xbf\x61a\x01\xff",
		"an indefinite length inside": "\xa1\x61c\x9f\xff",
		"a tag":                       "\xa1\x61a\xc1\x01",
		"a tag inside":                "\xa1\x61c\x81\xc1\x01",
		"text that is not UTF-8":      "\xa1\x61c\x61\xff",
		"too deep":                    "\xa1\x61c" + strings.Repeat("\x81", strictcbor.MaxNesting) + "\x00",
		"too many elements":           "\xa1\x61c\x98\x41" + strings.Repeat("\x00", strictcbor.MaxElements+1),
		"too many pairs":              "\xa1\x61c\xb8\x41" + pairs(strictcbor.MaxElements+1),
		"another type":                "\xa1\x61a\x61x",
		"null for a number":           "\xa1\x61a\xf6",
		"null for a text":             "\xa1\x61b\xf6",
		"null in what is not known":   "\xa1\x61c\x81\xf6",
		"undefined":                   "\xa1\x61a\xf7",
		"a float":                     "\xa1\x61c\xf9\x3c\x00",
		"a simple value for a number": "\xa1\x61a\xe1",
		"a simple value in two bytes": "\xa1\x61c\xf8\xff",
		"a bad simple value":          "\xa1\x61c\xf8\x15",
		"a key that is a number":      "\xa1\x01\x01",
		"a key that is bytes":         "\xa1\x41a\x01",
		"a key that is a map, inside": "\xa1\x61c\xa1\xa0\x01",
		"a surrogate":                 "\xa1\x61c\x63\xed\xa0\x80",
		"a reserved initial byte":     "\xa1\x61c\x1c",
		"a head that is cut":          "\xa1\x61c\x19\x00",
		"a key that is cut":           "\xa1\x62a",
		"a length that lies":          "\xa1\x61c\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			assert.Error(t, strictcbor.Decode([]byte(data), new(message)))
		})
	}
}
