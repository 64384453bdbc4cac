package transport_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// hexa is bytes, in hexadecimal in JSON.
type hexa []byte

func (h *hexa) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// A part of the vectors in testdata. Package handshake makes them, and testdata/README.md
// explains them.
type (
	framesFile struct {
		Streams []struct {
			Name   string
			Limit  int
			Bytes  hexa
			Frames []struct {
				Kind   string
				Number frame.Kind
				Body   hexa
			}
		}
	}
	refusedFile struct {
		Refused []struct{ Bytes hexa }
	}
	ticketsFile struct {
		Addresses        []struct{ Text string }
		RefusedAddresses []struct{ Text string } `json:"refused_addresses"`
	}
)

func readVectors[T any](t testing.TB, name string) (file T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &file))
	return file
}

func TestFrames_VectorsInAnyPieces(t *testing.T) {
	for _, s := range readVectors[framesFile](t, "frames.json").Streams {
		for _, piece := range []int{1, 2, 5, len(s.Bytes)} {
			t.Run(s.Name, func(t *testing.T) {
				c := transport.New(&recorded{in: &chunked{s.Bytes, piece}},
					transport.Config{MaxFrameSize: s.Limit})
				defer c.Abort()
				for _, want := range s.Frames {
					f, err := frames(c).Read(t.Context())
					require.NoError(t, err)
					assert.Equal(t, want.Number, f.Kind)
					assert.Equal(t, want.Kind, f.Kind.String())
					assert.Equal(t, []byte(want.Body), append([]byte{}, f.Body...))
				}
				_, err := frames(c).Read(t.Context())
				assert.ErrorIs(t, err, transport.ErrPeerGone)
			})
		}
	}
}

// FuzzParseAddr parses arbitrary text. ParseAddr returns an error, or an address whose text
// gives the same address again.
func FuzzParseAddr(f *testing.F) {
	file := readVectors[ticketsFile](f, "tickets.json")
	for _, a := range append(file.Addresses, file.RefusedAddresses...) {
		f.Add(a.Text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := transport.ParseAddr(text)
		if err != nil {
			var bad *transport.AddrError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, text, bad.Input)
			require.NotEmpty(t, bad.Reason)
			require.Zero(t, a)
			return
		}
		require.False(t, a.IsZero())
		require.Contains(t, []string{"unix", "tcp"}, a.Network())
		again, err := transport.ParseAddr(a.String())
		require.NoError(t, err)
		require.Equal(t, a, again)
		require.Equal(t, a, transport.AddrOf(a))
		marshalled, err := a.MarshalText()
		require.NoError(t, err)
		require.Equal(t, a.String(), string(marshalled))
	})
}

func TestAddr_Vectors(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are those of Unix")
	}
	file := readVectors[ticketsFile](t, "tickets.json")
	for _, a := range file.Addresses {
		addr, err := transport.ParseAddr(a.Text)
		require.NoError(t, err)
		assert.Equal(t, a.Text, addr.String())
	}
	for _, a := range file.RefusedAddresses {
		_, err := transport.ParseAddr(a.Text)
		assert.ErrorAs(t, err, new(*transport.AddrError))
	}
}
