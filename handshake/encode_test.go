package handshake

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
)

// TestWhatIsEncodedByHandIsWhatTheLibraryEncodes compares the two encoders, as one of them is ours.
func TestWhatIsEncodedByHandIsWhatTheLibraryEncodes(t *testing.T) {
	library := func(v any) []byte {
		b, err := cbor.Marshal(v)
		require.NoError(t, err)
		return b
	}
	numbers := []uint64{0, 1, 23, 24, 255, 256, 1<<16 - 1, 1 << 16, 1<<32 - 1, 1 << 32, 1<<63 - 1}
	texts := []string{"", "x", strings.Repeat("x", 23), strings.Repeat("x", 24), strings.Repeat("é", 128), strings.Repeat("x", 1<<16)}
	for i, n := range numbers {
		text := texts[i%len(texts)]
		versions := Range{Min: uint(n), Max: uint(n / 2)}
		var features []string
		for range i {
			features = append(features, text)
		}
		for _, m := range []interface{ encode() []byte }{
			hello{versions, text, text, int(n), []byte(text), features},
			welcome{uint(n), text, text, int(n), []byte(text), features},
			attach{text, []byte(text)},
			greet{versions, text, text, int(n), []byte(text), text, features},
			failed{Phase(text), text, text, nil},
			failed{PhaseAuth, text, text, &versions},
			ready{Timings{}},
			ready{Timings{Init: int64(n), Main: 5, Accepted: int64(n)}},
		} {
			require.Equal(t, library(m), m.encode(), fmt.Sprintf("%T, %d", m, n))
		}
		require.Equal(t, library([]any{[]byte(text), []byte("mac")}), sealed{[]byte(text), []byte("mac")}.encode())
		require.Equal(t, library([]byte(text)), encodeProof([]byte(text)))
	}
}

// TestWhatIsReadByHandIsWhatTheLibraryReads changes each byte of an answer to each other, cuts it and makes it longer.
func TestWhatIsReadByHandIsWhatTheLibraryReads(t *testing.T) {
	read := 0
	check := func(body []byte) {
		t.Helper()
		byHand, ok := plainReady(body)
		if !ok {
			return
		}
		read++
		var r ready
		require.NoError(t, strictcbor.Decode(body, &r), "%x", body)
		require.Equal(t, r, byHand, "%x", body)
	}
	for _, times := range []Timings{{}, {1, 2, 3, 4}, {Main: 300, Accepted: 1<<63 - 1}, {Connected: 1 << 20}} {
		whole := ready{times}.encode()
		r, ok := plainReady(whole)
		require.True(t, ok)
		require.Equal(t, ready{times}, r)
		for i := range whole {
			check(whole[:i])
			for b := range 256 {
				changed := bytes.Clone(whole)
				changed[i] = byte(b)
				check(changed)
			}
		}
		check(append(whole, 0))
	}
	assert.Greater(t, read, 100)
	for name, body := range map[string]string{
		"a moment twice":      "\xa1gtimings\xa2dinit\x01dinit\x02",
		"a moment of 0 twice": "\xa1gtimings\xa2dinit\x00dinit\x00",
		"another moment":      "\xa1gtimings\xa1dbeta\x01",
	} {
		_, ok := plainReady([]byte(body))
		assert.False(t, ok, name)
	}
}
