package spawnspec

import (
	"log/slog"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

// usual has what nearly all specs have.
func usual() *Spec {
	return &Spec{
		Name: "worker-1", Entry: "resize", Method: "exec", Depth: 2, Grace: 5 * time.Second,
		Parent: Identity{ID: "0123456789abcdef", Name: "gallery", PID: 4711},
	}
}

func TestASpecIsInTheDeterministicForm(t *testing.T) {
	big := usual()
	big.Args, big.Vars = map[string]int{"b": 1, "a": 2}, map[string]any{"long": 1, "b": nil, "a": "x"}
	big.Modules, big.Dir, big.LogLevel = []string{"m", "n"}, t.TempDir(), slog.LevelError+1
	big.Registry, big.Bind = []transport.Addr{{Scheme: "uds", Target: "@r"}}, []transport.Addr{{Scheme: "tcp", Target: "localhost:0"}}
	big.Deadline = time.Unix(0, 1<<60)
	past := *big
	past.Deadline = time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC)
	least := &Spec{Name: "n", Method: "m", Depth: 1, Parent: Identity{ID: "p"}}
	for _, s := range []*Spec{usual(), big, &past, least} {
		data, err := Marshal(s)
		require.NoError(t, err)
		var fields map[string]cbor.RawMessage
		require.NoError(t, cbor.Unmarshal(data, &fields))
		again, err := modes().enc.Marshal(fields)
		require.NoError(t, err)
		assert.Equal(t, again, data)
		var parent map[string]cbor.RawMessage
		require.NoError(t, cbor.Unmarshal(fields["parent"], &parent))
		again, err = modes().enc.Marshal(parent)
		require.NoError(t, err)
		assert.Equal(t, again, []byte(fields["parent"]))
		got, err := Unmarshal(data)
		require.NoError(t, err)
		assert.True(t, s.Deadline.Equal(got.Deadline))
	}
}

// TestAPlainSpecIsWhatTheOtherReaderTakesToo changes each byte of one to each other, cuts it, and repeats parts of it.
func TestAPlainSpecIsWhatTheOtherReaderTakesToo(t *testing.T) {
	whole, err := Marshal(usual())
	require.NoError(t, err)
	plain, others := 0, 0
	check := func(data []byte) {
		t.Helper()
		s, ok := readPlain(data)
		if !ok {
			others++
			return
		}
		plain++
		want, err := read(data)
		require.NoError(t, err, "%x", data)
		require.Equal(t, want, s, "%x", data)
	}
	check(whole)
	require.Equal(t, 1, plain, "the usual one is plain")
	for i := range whole {
		check(whole[:i])
		for b := range 256 {
			changed := append([]byte(nil), whole...)
			changed[i] = byte(b)
			check(changed)
		}
		for j := i; j <= len(whole); j++ { // some of these are a field that is there twice
			for more := range byte(3) {
				changed := append(append([]byte(nil), whole[:j]...), whole[i:]...)
				changed[0] += more
				check(changed)
			}
		}
	}
	check(append(append([]byte(nil), whole...), 0))
	assert.Greater(t, plain, 1000)
	assert.Greater(t, others, plain)
}
