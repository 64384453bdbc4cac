package forkspawn

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// The vectors of testdata/ for a child's control connection are made by package
// handshake.

// onControl gives a child bytes on its control connection, and then the
// connection's end. It returns what the child has sent, too.
func onControl(t *testing.T, received string) (p *Parent, sent string, cause, err error) {
	t.Helper()
	data := testkit.Hex(t, received)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer far.Close()
	near, err := ln.Accept()
	require.NoError(t, err)
	far.SetDeadline(time.Now().Add(testkit.Patience))
	far.Write(data)
	far.(*net.TCPConn).CloseWrite()
	p = &Parent{askedToStop: make(chan struct{})}
	p.open, p.close = context.WithCancel(t.Context())
	p.ctx, p.cancel = context.WithCancelCause(t.Context())
	err = p.obey(transport.New(near, transport.Config{MaxFrameSize: access.PreAuthLimit}))
	cause = context.Cause(p.ctx)
	answer, _ := io.ReadAll(far)
	return p, hex.EncodeToString(answer), cause, err
}

func TestVectors_ControlConnectionRefuses(t *testing.T) {
	var file struct {
		Refused []struct{ Name, Receiver, State, Bytes, Error string }
	}
	testkit.ReadVectors(t, "refused.json", &file)
	tried := 0
	for _, v := range file.Refused {
		if v.Receiver != "child" || v.State != "attached" {
			continue
		}
		tried++
		t.Run(v.Error+" "+v.Name, func(t *testing.T) {
			_, _, cause, err := onControl(t, v.Bytes)
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

func TestVectors_ControlConnectionSkipsNoMore(t *testing.T) {
	var file struct {
		Large []struct {
			State, Start, Fill, End, Error string
			Times                          int
		}
	}
	testkit.ReadVectors(t, "large.json", &file)
	tried := 0
	for _, v := range file.Large {
		if v.State != "attached" {
			continue
		}
		tried++
		_, _, cause, err := onControl(t, v.Start+strings.Repeat(v.Fill, v.Times)+v.End)
		require.NoError(t, err)
		assert.ErrorIs(t, cause, transport.ErrProtocol)
		assert.ErrorContains(t, cause, "extension frames")
	}
	assert.NotZero(t, tried)
}

func TestVectors_ControlConnectionDoes(t *testing.T) {
	var file struct {
		Control []struct{ What, State, Kind, Frame, Does string }
	}
	testkit.ReadVectors(t, "child.json", &file)
	assert.NotEmpty(t, file.Control)
	for _, v := range file.Control {
		if v.State != "attached" {
			continue // see TestVectors_AnswersToAnAttach in package handshake
		}
		t.Run(v.Kind+" "+v.What, func(t *testing.T) {
			p, sent, cause, err := onControl(t, v.Frame)
			asked, _, _ := p.stopRequest()
			switch v.Does {
			case "pong":
				assert.ErrorIs(t, err, transport.ErrPeerGone, "it goes on until the end")
				assert.NotErrorAs(t, cause, new(*CancelError))
				// the same frame with another kind
				assert.Equal(t, strings.Replace(v.Frame, "22", "23", 1), sent)
			case "stop":
				assert.ErrorIs(t, err, transport.ErrPeerGone, "it goes on until the end")
				assert.False(t, asked.IsZero())
				assert.ErrorAs(t, cause, new(*CancelError))
			case "exit":
				require.NoError(t, err)
				assert.ErrorAs(t, cause, new(*CancelError))
			default:
				t.Fatalf("no test of %q", v.Does)
			}
		})
	}
}
