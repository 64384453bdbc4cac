package transport_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

var goodbye = frameOf(frame.KindGoodbye, []byte("\xa1\x66status\x00")...)

// A simple client sends a goodbye, reads to the end, and then closes.
func TestGoodbye_ReceiverEndsItsDirection(t *testing.T) {
	for _, l := range append([]link{{"TLS", tlsLink}}, sockets...) {
		t.Run(l.name, func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			require.NoError(t, c.Send(testkit.Context(t), "unread"))
			write(peer, goodbye)
			require.ErrorAs(t, c.Recv(testkit.Context(t), new(any)), new(*transport.GoodbyeError))
			require.NoError(t, peer.SetReadDeadline(time.Now().Add(testkit.Patience)))
			rest, err := io.ReadAll(peer) // over TLS an end without an alert is an error
			require.NoError(t, err)
			assert.NotEmpty(t, rest)
			assert.ErrorIs(t, c.Send(testkit.Context(t), 1), transport.ErrPeerGone)
			assert.NoError(t, c.Close())
		})
	}
}

func TestGoodbye_EndsABlockedSend(t *testing.T) {
	for _, l := range append([]link{{"TLS", tlsLink}}, sockets...) {
		t.Run(l.name, func(t *testing.T) {
			c, peer := l.withStuckPeer(t)
			sent := testkit.Background(t, func() error {
				return c.SendBytes(testkit.Context(t), huge())
			})
			readN(t, peer, 10)
			write(peer, goodbye)
			require.ErrorAs(t, c.Recv(testkit.Context(t), new(any)), new(*transport.GoodbyeError))
			require.ErrorIs(t, sent(), transport.ErrPeerGone)
		})
	}
}

// Both sides close, and neither reads the goodbye of the other.
func TestClose_CrossingGoodbyesWaitForNothing(t *testing.T) {
	for _, l := range []link{{"TLS", tlsLink}, {"TCP", testkit.TCP}} {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			closed := testkit.Background(t, a.Close)
			require.NoError(t, b.Close())
			require.NoError(t, closed())
		})
	}
}

// The peer has sent what this side does not read, and reads late.
func TestClose_GoodbyePassesUnreadInput(t *testing.T) {
	for _, l := range append([]link{{"TLS", tlsLink}}, sockets...) {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			for range 50 {
				require.NoError(t, a.SendBytes(testkit.Context(t), make([]byte, 1000)))
				require.NoError(t, b.SendBytes(testkit.Context(t), make([]byte, 1000)))
			}
			closed := testkit.Background(t, func() error {
				return b.CloseWith(testkit.Context(t), 3, "")
			})
			var bye *transport.GoodbyeError
			for err := error(nil); bye == nil; {
				_, err = a.RecvBytes(testkit.Context(t), make([]byte, 1000))
				if !errors.As(err, &bye) {
					require.NoError(t, err)
				}
			}
			assert.Equal(t, 3, bye.Status)
			require.NoError(t, closed())
		})
	}
}
