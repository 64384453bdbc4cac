package transport_test

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// nested returns n slices around v.
func nested(n int, v any) any {
	for range n {
		v = []any{v}
	}
	return v
}

func TestValues_WhatRecvRefusesIsNotSent(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	for name, v := range map[string]any{
		"text that is not UTF-8":    "caf\xe9",
		"surrogates":                "\xed\xa0\x80",
		"a key that is not UTF-8":   map[string]int{"caf\xe9": 1},
		"text inside":               []any{1, map[string]any{"k": "\xff"}},
		"a key that is an array":    map[[2]int]string{{1, 2}: "x"},
		"a key that is a struct":    map[struct{ A int }]int{{1}: 1},
		"a key that is big":         cbor.RawMessage("\xa1\xc2\x41\x05\x01"),
		"a tagged array as a key":   cbor.RawMessage("\xa1\xd8\x63\x80\x01"),
		"65 levels":                 nested(65, 1),
		"64 levels and a map":       nested(64, map[string]int{}),
		"an open text in pieces":    cbor.RawMessage("\x7f\x61\xff\xff"),
		"an open array of bad text": cbor.RawMessage("\x9f\x61\xff\xff"),
		"an open map with a key":    cbor.RawMessage("\xbf\x80\x01\xff"),
	} {
		t.Run(name, func(t *testing.T) {
			var encode *transport.EncodeError
			assert.ErrorAs(t, a.Send(ctx, v), &encode)
			batch := a.NewBatch()
			assert.ErrorAs(t, batch.Send(ctx, v), &encode)
			require.NoError(t, batch.Send(ctx, "next"))
			require.NoError(t, batch.Flush(ctx))
			var got any
			require.NoError(t, b.Recv(ctx, &got))
			assert.Equal(t, "next", got)
		})
	}
}

func TestValues_WhatIsSentIsReceived(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	now := time.Now()
	for name, v := range map[string]any{
		"64 levels":               nested(64, 1),
		"a time in 64 levels":     nested(64, now),
		"bytes that are not text": []byte("caf\xe9"),
		"a time as a key":         map[time.Time]int{now: 1},
		"numbers as keys":         map[any]any{-1: 1, 1.5: 2, true: 3, nil: 4},
		"bytes as a key":          map[cbor.ByteString]int{"\xff": 1},
		"a big number":            *new(big.Int).Lsh(big.NewInt(1), 100),
		"open items": cbor.RawMessage(
			"\xbf\x61a\x9f\x5f\x41\xff\xff\xff\x61b\x7f\x61x\xff\xff"),
		"100,000 elements": make([]int, 100_000),
		"nothing":          nil,
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan error, 1)
			go func() { sent <- a.Send(ctx, v) }()
			var got any
			require.NoError(t, b.Recv(ctx, &got))
			require.NoError(t, <-sent)
		})
	}
}

// A program shows a received value as JSON.
func TestValues_MapsWithTextKeysAreJSON(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	value := map[string]any{"list": []any{map[string]int{"x": 1}}, "text": "é"}
	require.NoError(t, a.Send(ctx, value))
	var got any
	require.NoError(t, b.Recv(ctx, &got))
	shown, err := json.Marshal(got)
	require.NoError(t, err)
	assert.JSONEq(t, `{"list": [{"x": 1}], "text": "é"}`, string(shown))

	var inStruct struct{ Field any }
	require.NoError(t, a.Send(ctx, map[string]any{"Field": value}))
	require.NoError(t, b.Recv(ctx, &inStruct))
	assert.IsType(t, map[string]any{}, inStruct.Field)

	require.NoError(t, a.Send(ctx, map[int]map[string]int{7: {"x": 1}}))
	require.NoError(t, b.Recv(ctx, &got))
	assert.Equal(t, map[any]any{uint64(7): map[any]any{"x": uint64(1)}}, got)
	var typed map[int]map[string]int
	require.NoError(t, a.Send(ctx, map[int]map[string]int{7: {"x": 1}}))
	require.NoError(t, b.Recv(ctx, &typed))
	assert.Equal(t, map[int]map[string]int{7: {"x": 1}}, typed)

	require.NoError(t, a.Send(ctx, strings.Repeat("x", 10)))
	var decode *transport.DecodeError
	assert.ErrorAs(t, b.Recv(ctx, &typed), &decode)
}
