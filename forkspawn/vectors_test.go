package forkspawn

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
)

// The vectors of testdata/ for a child's control connection. Package handshake makes them.

// onControl lets a child have what comes on its control connection, and then the connection's end.
func onControl(t *testing.T, said string) (p *Parent, cause, err error) {
	t.Helper()
	data := unhex(t, said)
	near, far := net.Pipe()
	go func() {
		far.SetDeadline(time.Now().Add(time.Minute))
		far.Write(data)
		far.Close()
	}()
	p = &Parent{askedToStop: make(chan struct{})}
	p.open, p.close = context.WithCancel(t.Context())
	p.ctx, p.cancel = context.WithCancelCause(t.Context())
	err = p.obey(transport.New(near, transport.Config{Limit: handshake.PreAuthLimit}))
	return p, context.Cause(p.ctx), err
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	require.NoError(t, err)
	return data
}

func readVectors(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, into))
}

func TestTheControlConnectionRefusesWhatTheVectorsRefuse(t *testing.T) {
	var file struct {
		Refused []struct{ Name, Receiver, State, Bytes, Error string }
	}
	readVectors(t, "refused.json", &file)
	tried := 0
	for _, v := range file.Refused {
		if v.Receiver != "child" || v.State != "attached" {
			continue
		}
		tried++
		t.Run(v.Error+" "+v.Name, func(t *testing.T) {
			_, cause, err := onControl(t, v.Bytes)
			if v.Error == "peer-gone" {
				assert.ErrorIs(t, err, transport.ErrPeerGone)
				return
			}
			require.NoError(t, err)
			assert.ErrorIs(t, cause, transport.ErrProtocol)
		})
	}
	assert.NotZero(t, tried)
}

func TestTheControlConnectionSkipsNoMoreThanTheVectorsSay(t *testing.T) {
	var file struct {
		Large []struct {
			State, Start, Fill, End, Error string
			Times                          int
		}
	}
	readVectors(t, "large.json", &file)
	tried := 0
	for _, v := range file.Large {
		if v.State != "attached" {
			continue
		}
		tried++
		_, cause, err := onControl(t, v.Start+strings.Repeat(v.Fill, v.Times)+v.End)
		require.NoError(t, err)
		assert.ErrorIs(t, cause, transport.ErrProtocol)
		assert.ErrorContains(t, cause, "extension frames")
	}
	assert.NotZero(t, tried)
}

func TestTheControlConnectionDoesWhatTheVectorsSay(t *testing.T) {
	var file struct {
		Control []struct{ What, Kind, Frame, Does string }
	}
	readVectors(t, "child.json", &file)
	assert.NotEmpty(t, file.Control)
	for _, v := range file.Control {
		t.Run(v.Kind+" "+v.What, func(t *testing.T) {
			p, cause, err := onControl(t, v.Frame)
			asked, _, _ := p.demand()
			switch v.Does {
			case "stop":
				assert.ErrorIs(t, err, transport.ErrPeerGone, "it goes on until the end")
				assert.False(t, asked.IsZero())
				assert.ErrorAs(t, cause, new(*CancelError))
			case "exit":
				require.NoError(t, err)
				assert.ErrorAs(t, cause, new(*CancelError))
			case "go on":
				assert.ErrorIs(t, err, handshake.ErrRefused)
				assert.NoError(t, cause)
			default:
				t.Fatalf("no test of %q", v.Does)
			}
		})
	}
}
