package handshake

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// TestMessages_AreWhatTheLibraryEncodes compares each message, encoded by hand,
// with the same map as the CBOR library encodes it.
func TestMessages_AreWhatTheLibraryEncodes(t *testing.T) {
	numbers := []uint64{0, 1, 23, 24, 255, 256, 1<<16 - 1, 1 << 16, maxPID - 1}
	texts := []string{"", "x", strings.Repeat("x", 23), strings.Repeat("x", 24),
		strings.Repeat("é", 128), strings.Repeat("x", 1<<16)}
	for i, n := range numbers {
		text := texts[i%len(texts)]
		versions := versionRange{uint(n), uint(n / 2)}
		pair := []uint64{n, n / 2}
		var features []string
		fields := map[string]any{"id": text, "name": text, "pid": n, "nonce": []byte(text)}
		for range i {
			features = append(features, text)
			fields["features"] = features
		}
		me := self{Identity{text, text, int(n)}, []byte(text), features}
		and := func(key string, value any) map[string]any {
			m := map[string]any{key: value}
			for k, v := range fields {
				m[k] = v
			}
			return m
		}
		withLimit := and("version", n)
		withLimit["limit"] = n + 1
		withAuth := and("versions", pair)
		withAuth["auth"] = text
		for _, c := range []struct {
			kind    frame.Kind
			encoded []byte
			want    map[string]any
			again   interface {
				message
				encode() []byte
			}
		}{
			{frame.KindHello, hello{versions, me}.encode(), and("versions", pair), new(hello)},
			{frame.KindWelcome, welcome{uint(n), me, 0}.encode(), and("version", n), new(welcome)},
			{frame.KindWelcome, welcome{uint(n), me, int(n) + 1}.encode(), withLimit, new(welcome)},
			{frame.KindAttach, attach{text, []byte(text)}.encode(),
				map[string]any{"id": text, "nonce": []byte(text)}, new(attach)},
			{frame.KindGreet, greet{versions, me, text}.encode(), withAuth, new(greet)},
			{frame.KindFailed, failed{Phase(text), text, text, nil}.encode(),
				map[string]any{"phase": text, "code": text, "error": text}, new(failed)},
			{frame.KindFailed, failed{PhaseAuth, text, text, &versions}.encode(),
				map[string]any{"phase": "auth", "code": text, "error": text, "versions": pair},
				new(failed)},
			{frame.KindReady, ready{access.Timings{}, nil}.encode(),
				map[string]any{"timings": map[string]any{}}, new(ready)},
			{frame.KindReady,
				ready{access.Timings{Init: 7, Main: 5, Connected: 1 << 20,
					Accepted: 1<<63 - 1}, []byte(text)}.encode(),
				map[string]any{"timings": map[string]any{"init": 7, "main": 5, "connected": 1 << 20,
					"accepted": uint64(1<<63 - 1)}, "value": []byte(text)}, new(ready)},
		} {
			require.Equal(t, sortedKeys(t, c.want),
				sortedKeys(t, cbor.RawMessage(c.encoded)), "%s, %d", c.kind, n)
			require.NoError(t, decode(c.kind, c.encoded, c.again))
			require.Equal(t, c.encoded, c.again.encode(),
				"%s, %d, decoded and encoded again", c.kind, n)
		}
		encoded, err := cbor.Marshal([]any{[]byte(text), []byte("mac")})
		require.NoError(t, err)
		require.Equal(t, encoded, sealed{[]byte(text), []byte("mac")}.encode())
		encoded, err = cbor.Marshal([]byte(text))
		require.NoError(t, err)
		require.Equal(t, encoded, encodeProof([]byte(text)))
	}
}

// sortedKeys encodes v with the keys of its maps in the order of RFC 8949,
// section 4.2.1, and numbers in their shortest form.
func sortedKeys(t testing.TB, v any) string {
	t.Helper()
	if encoded, ok := v.(cbor.RawMessage); ok {
		again := any(nil)
		require.NoError(t, cbor.Unmarshal(encoded, &again))
		encodedAgain, err := cbor.Marshal(again)
		require.NoError(t, err)
		require.Len(t, encoded, len(encodedAgain), "the shortest form")
		v = again
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	require.NoError(t, err)
	b, err := mode.Marshal(v)
	require.NoError(t, err)
	return fmt.Sprintf("%x", b)
}

func TestReady_RefusesWhatIsNoMoment(t *testing.T) {
	for name, body := range map[string]string{
		"a moment twice":         "\xa1gtimings\xa2dinit\x01dinit\x02",
		"a moment of 0 twice":    "\xa1gtimings\xa2dinit\x00dinit\x00",
		"a negative moment":      "\xa1gtimings\xa1dinit\x20",
		"a moment of 64 bits":    "\xa1gtimings\xa1dinit\x1b\x80\x00\x00\x00\x00\x00\x00\x00",
		"a moment that is text":  "\xa1gtimings\xa1dinit\x61x",
		"timings in an array":    "\xa1gtimings\x80",
		"a byte after the map":   "\xa1gtimings\xa0\x00",
		"a null, of another key": "\xa1gtimings\xa1dbeta\xf6",
	} {
		err := decode(frame.KindReady, []byte(body), new(ready))
		assert.ErrorIs(t, err, transport.ErrProtocol, name)
	}
	var r ready
	require.NoError(t,
		decode(frame.KindReady, []byte("\xa2gtimings\xa2dbeta\x01dinit\x02ebeta2\x80"), &r))
	assert.Equal(t, ready{access.Timings{Init: 2}, nil}, r, "other keys are ignored")
}
