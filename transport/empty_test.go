package transport_test

import (
	"encoding/hex"
	"reflect"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// The encodings of nothing.
const (
	null      = "f6"
	undefined = "f7"
	noBytes   = "40"
	noText    = "60"
	noArray   = "80"
	noMap     = "a0"
)

// sentBy returns the body of the message in which Send sends v.
func sentBy(t *testing.T, v any) string {
	t.Helper()
	a, b := sockets[0].channels(t)
	require.NoError(t, a.Send(testkit.Context(t), v))
	f, err := frames(b).Read(testkit.Context(t))
	require.NoError(t, err)
	require.Equal(t, frame.KindMessage, f.Kind)
	return hex.EncodeToString(f.Body)
}

func TestMessages_NilAndEmptyDiffer(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{nil, null},
		{[]byte(nil), null}, {[]byte{}, noBytes},
		{transport.Bytes(nil), null}, {transport.Bytes{}, noBytes},
		{make(transport.Bytes, 0, 9), noBytes},
		{cbor.ByteString(""), noBytes},
		{"", noText},
		{[]int(nil), null}, {[]int{}, noArray},
		{map[string]int(nil), null}, {map[string]int{}, noMap},
		{(*int)(nil), null}, {struct{}{}, noMap},
		{cbor.RawMessage(nil), null}, {cbor.RawMessage{}, null},
		{struct {
			Data transport.Bytes `cbor:"d,omitempty"`
		}{transport.Bytes{}}, noMap},
		{struct {
			Data transport.Bytes `cbor:"d"`
		}{}, "a16164" + null},
	} {
		assert.Equal(t, c.want, sentBy(t, c.value), "%T %#v", c.value, c.value)
	}
}

// The test receives each kind of nothing into a new value and into a used one, and
// sends it on.
func TestMessages_NothingStaysWhatItIs(t *testing.T) {
	for _, c := range []struct {
		got     string
		into    any    // a pointer to a new value
		used    any    // the value before, in the second run
		sent    string // what is sent on
		becomes any
	}{
		{noBytes, new([]byte), []byte("old"), noBytes, []byte{}},
		{null, new([]byte), []byte("old"), null, []byte(nil)},
		{noBytes, new(transport.Bytes), transport.Bytes("old"), noBytes, transport.Bytes{}},
		{null, new(transport.Bytes), transport.Bytes("old"), null, transport.Bytes(nil)},
		{undefined, new(transport.Bytes), transport.Bytes("old"), null, transport.Bytes(nil)},
		{noArray, new(transport.Bytes), transport.Bytes("old"), noBytes, transport.Bytes{}},
		{noText, new(string), "old", noText, ""},
		{noArray, new([]int), []int{1}, noArray, []int{}},
		{null, new([]int), []int{1}, null, []int(nil)},
		{noMap, new(map[string]int), map[string]int{}, noMap, map[string]int{}},
		{null, new(map[string]int), map[string]int{"a": 1}, null, map[string]int(nil)},
		{null, new(*int), new(int), null, (*int)(nil)},
		{null, new(any), any("old"), null, nil},
		{undefined, new(any), any("old"), null, nil},
		{noBytes, new(any), any("old"), noBytes, []byte{}},
		{noText, new(any), any("old"), noText, ""},
		{noArray, new(any), any("old"), noArray, []any{}},
		{noMap, new(any), any("old"), noMap, map[string]any{}},
		{null, new(cbor.RawMessage), cbor.RawMessage{0}, null, cbor.RawMessage{0xf6}},
		{noBytes, new(cbor.RawMessage), cbor.RawMessage{0}, noBytes, cbor.RawMessage{0x40}},
	} {
		into := reflect.ValueOf(c.into)
		for range 2 {
			receive(t, c.got, c.into)
			assert.Equal(t, c.becomes, into.Elem().Interface(), "%s into a %T", c.got, c.into)
			assert.Equal(t, c.sent, sentBy(t, into.Elem().Interface()), "%s in a %T", c.got, c.into)
			into.Elem().Set(reflect.ValueOf(c.used))
		}
	}
}

// receive receives a message with the body.
func receive(t *testing.T, body string, into any) {
	t.Helper()
	encoded, err := hex.DecodeString(body)
	require.NoError(t, err)
	a, b := sockets[0].channels(t)
	require.NoError(t, frames(a).Write(testkit.Context(t),
		frame.Frame{Kind: frame.KindMessage, Body: encoded}))
	require.NoError(t, b.Recv(testkit.Context(t), into))
}

func TestBytes_AbsentFieldKeepsItsBytes(t *testing.T) {
	var chunk struct {
		Data transport.Bytes `cbor:"d"`
	}
	receive(t, noMap, &chunk)
	assert.Nil(t, chunk.Data)
	receive(t, "a161644161", &chunk)
	receive(t, noMap, &chunk)
	assert.Equal(t, transport.Bytes("a"), chunk.Data)
	receive(t, "a161644"+"0", &chunk)
	assert.Equal(t, transport.Bytes{}, chunk.Data)
}

// No bytes and nil are the same raw message. It is not nil at the receiver, so Send
// sends it on as a byte string.
func TestMessages_RawNothing(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	batch := a.NewBatch()
	for _, p := range [][]byte{nil, {}} {
		require.NoError(t, a.SendBytes(ctx, p))
		n, err := b.RecvBytes(ctx, nil)
		require.NoError(t, err)
		assert.Zero(t, n)
		require.NoError(t, batch.SendBytes(ctx, p))
		require.NoError(t, batch.Flush(ctx))
		body, err := b.RecvBorrowed(ctx)
		require.NoError(t, err)
		assert.Equal(t, []byte{}, body)
		assert.Equal(t, noBytes, sentBy(t, body))
	}
}

func TestAddr_ZeroInAMessage(t *testing.T) {
	type place struct{ At transport.Addr }
	a, b := sockets[0].channels(t)
	for _, want := range []place{{}, {transport.Addr{Scheme: "uds", Target: "/x"}}} {
		got := place{transport.Addr{Scheme: "tcp", Target: "localhost:1", Pin: [32]byte{1}}}
		require.NoError(t, a.Send(testkit.Context(t), want))
		require.NoError(t, b.Recv(testkit.Context(t), &got))
		assert.Equal(t, want, got)
	}
}
