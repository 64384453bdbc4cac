package spawnspec

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestWhatIsReadByHandIsWhatTheLibraryReads changes each byte of plain items to each other, and cuts them.
func TestWhatIsReadByHandIsWhatTheLibraryReads(t *testing.T) {
	texts, numbers := 0, 0
	check := func(data []byte) {
		t.Helper()
		if text, rest, ok := plainText(data); ok {
			texts++
			var s string
			left, err := plainMode().UnmarshalFirst(data, &s)
			require.NoError(t, err, "%x", data)
			require.Equal(t, s, string(text), "%x", data)
			require.Equal(t, string(left), string(rest), "%x", data)
		}
		if rest, ok := plainItem(data); ok {
			numbers++
			left, err := plainMode().UnmarshalFirst(data, new(skipped))
			require.NoError(t, err, "%x", data)
			require.Equal(t, string(left), string(rest), "%x", data)
		}
	}
	for _, whole := range []string{
		"\x00", "\x18\x00\x01", "\x1b\x00\x01\x02\x03\x04\x05\x06\x07rest", "\x60", "\x64name\x01", "\x78\x04name", "\x62\u00e9", "\x79\x00\x03\u20ac\x00",
	} {
		for i := range whole {
			check([]byte(whole)[:i])
			for b := range 256 {
				changed := []byte(whole)
				changed[i] = byte(b)
				check(changed)
			}
		}
	}
	assert.Greater(t, texts, 100)
	assert.Greater(t, numbers, texts)
}

// TestAKeyThatIsThereTwiceIsFoundAmongFewAndMany has as many fields as are looked through one by one, and more.
func TestAKeyThatIsThereTwiceIsFoundAmongFewAndMany(t *testing.T) {
	for _, n := range []int{2, usualFields + 1, fewFields, fewFields + 1, maxFields} {
		var data bytes.Buffer
		fmt.Fprintf(&data, "\xb9%c%c", n>>8, n&0xff)
		for i := range n - 1 {
			fmt.Fprintf(&data, "\x63%03d\x00", i)
		}
		fields, err := readMap([]byte(data.String()+"\x63end\x00"), "", maxFields)
		require.NoError(t, err)
		require.Len(t, fields, n)
		_, err = readMap([]byte(data.String()+"\x63000\x00"), "", maxFields)
		require.ErrorContains(t, err, "000", n)
		require.ErrorContains(t, err, "twice", n)
	}
	assert.Nil(t, find(nil, strings.Repeat("x", 3)))
}
