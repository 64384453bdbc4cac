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
		"the deepest nested": "\xa3\x61a\x01\x61b\x61x\x61c" + strings.Repeat("\x81", strictcbor.MaxNesting-1) + "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			var m message
			require.NoError(t, strictcbor.Decode([]byte(data), &m))
			assert.Equal(t, message{1, "x"}, m)
		})
	}
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
		"another type":                "\xa1\x61a\x61x",
	} {
		t.Run(name, func(t *testing.T) {
			assert.Error(t, strictcbor.Decode([]byte(data), new(message)))
		})
	}
}
