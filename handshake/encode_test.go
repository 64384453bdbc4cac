package handshake

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"
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
