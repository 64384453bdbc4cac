package handshake_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

var please = handshake.Cancel{Reason: "enough", Grace: 3 * time.Second}

// attach opens a child's control connection. The parent has accepted it when
// attach returns.
func attach(t testing.TB, j *handshake.Joined, ticket handshake.Ticket) *transport.Channel {
	t.Helper()
	control, err := j.AttachControl(testkit.Context(t), dial(t, ticket.Addr))
	require.NoError(t, err)
	t.Cleanup(func() { control.Abort() })
	return control
}

func requireCancel(t testing.TB, ch *transport.Channel) {
	t.Helper()
	f, err := ch.Frames(access.Key{}).Read(testkit.Context(t))
	require.NoError(t, err)
	require.Equal(t, frame.KindCancel, f.Kind)
	c, err := frame.ParseCancel(f.Body)
	require.NoError(t, err)
	require.Equal(t, please, handshake.Cancel(c))
}

var withControl = handshake.JoinConfig{Control: true}

func TestControl_CarriesCancel(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ctx := testkit.Context(t)
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		require.True(t, j.Control())
		peer := wait(t, x)
		control := attach(t, j, ticket)

		// The child is busy and its messages are stuck. The request still arrives.
		stuck, cancel := context.WithCancel(ctx)
		sent := make(chan error, 1)
		go func() {
			for {
				if err := peer.Channel.SendBytes(stuck, make([]byte, 1<<20)); err != nil {
					sent <- err
					return
				}
			}
		}()
		require.NoError(t, peer.Cancel(ctx, please))
		requireCancel(t, control)
		cancel()
		require.ErrorIs(t, <-sent, context.Canceled)

		require.NoError(t, peer.Abort())
		requireGone(t, control)
		requireGone(t, j.Channel)
	})
}

func TestControl_GetsAGoodbyeOnClose(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := joinReady(t, ticket, withControl)
	peer := wait(t, x)
	control := attach(t, j, ticket)
	require.NoError(t, peer.Close())
	for _, ch := range []*transport.Channel{control, j.Channel} {
		var bye *transport.GoodbyeError
		require.ErrorAs(t, ch.Recv(testkit.Context(t), new(any)), &bye)
	}
	require.ErrorIs(t, peer.Close(), transport.ErrChannelClosed)
	require.Error(t, peer.Cancel(testkit.Context(t), please))
}

func TestControl_RepeatsAnEarlierCancel(t *testing.T) {
	ctx := testkit.Context(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	asked := make(chan handshake.Cancel, 1)
	j := joinReady(t, ticket,
		handshake.JoinConfig{Control: true, OnCancel: func(c handshake.Cancel) {
			asked <- c
		}})
	peer := wait(t, x)
	require.NoError(t, peer.Cancel(ctx, please))
	requireCancel(t, attach(t, j, ticket))
	require.NoError(t, peer.Channel.Send(ctx, "on"))
	requireReceives(t, j.Channel, "on")
	assert.Equal(t, please, <-asked)
}

func TestControl_AbsentMeansCancelInBand(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ctx := testkit.Context(t)
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		asked := make(chan handshake.Cancel, 1)
		j := joinReady(t, ticket, handshake.JoinConfig{OnCancel: func(c handshake.Cancel) {
			asked <- c
		}})
		peer := wait(t, x)
		require.NoError(t, peer.Channel.Send(ctx, "first"))
		require.NoError(t, peer.Cancel(ctx, please))
		require.NoError(t, peer.Channel.Send(ctx, "last"))
		requireReceives(t, j.Channel, "first")
		assert.Empty(t, asked)
		requireReceives(t, j.Channel, "last")
		assert.Equal(t, please, <-asked)

		over, cancel := context.WithCancelCause(ctx)
		cancel(errors.New("too late"))
		require.ErrorIs(t, peer.Cancel(over, please), context.Canceled)
	})
}

func TestControl_CutMeansCancelInBand(t *testing.T) {
	ctx := testkit.Context(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	asked := make(chan handshake.Cancel, 1)
	j := joinReady(t, ticket,
		handshake.JoinConfig{Control: true, OnCancel: func(c handshake.Cancel) {
			asked <- c
		}})
	peer := wait(t, x)
	control := attach(t, j, ticket)
	require.NoError(t, control.Abort())
	require.NoError(t, peer.Cancel(ctx, please))
	require.NoError(t, peer.Channel.Send(ctx, "on"))
	requireReceives(t, j.Channel, "on")
	assert.Equal(t, please, <-asked)
}

func TestControl_MayComeBeforeReady(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := join(t, ticket, withControl)
	control := attach(t, j, ticket)
	require.NoError(t, j.Ready(testkit.Context(t), nil))
	require.NoError(t, wait(t, x).Cancel(testkit.Context(t), please))
	requireCancel(t, control)

	t.Run("and ends with a child that fails", func(t *testing.T) {
		x, ticket := expect(t, l, nil)
		j := join(t, ticket, withControl)
		control := attach(t, j, ticket)
		require.NoError(t, j.Fail(testkit.Context(t), handshake.PhaseReady, errors.New("no")))
		_, err := x.WaitForPeer(testkit.Context(t))
		require.Error(t, err)
		requireGone(t, control)
	})
}

// requireNotAttached checks that the parent refuses a control connection.
func requireNotAttached(t testing.TB, j *handshake.Joined, conn net.Conn) {
	t.Helper()
	_, err := j.AttachControl(testkit.Context(t), conn)
	require.ErrorIs(t, err, handshake.ErrRefused)
	requirePhase(t, handshake.PhaseReady, err)
	requireClosed(t, conn)
}

func TestControl_IsRefused(t *testing.T) {
	t.Run("when it does not prove the session", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		peer := wait(t, x)
		payload := encoded(t, fields{"id": ticket.ID, "nonce": make([]byte, 32)})
		for _, key := range [][]byte{ticket.Secret(), nil, make([]byte, 32)} {
			requireRefused(t,
				say(t, ticket.Addr,
					frameOf(frame.KindAttach, sealed(t, key, "spawnwire attach", payload))))
		}
		control := attach(t, j, ticket) // the refused ones do not disturb it
		require.NoError(t, peer.Cancel(testkit.Context(t), please))
		requireCancel(t, control)
	})
	t.Run("when there is one", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		peer := wait(t, x)
		control := attach(t, j, ticket)
		requireNotAttached(t, j, dial(t, ticket.Addr))
		require.NoError(t, peer.Cancel(testkit.Context(t), please))
		requireCancel(t, control)
	})
	t.Run("when it was not announced", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, handshake.JoinConfig{})
		wait(t, x)
		requireNotAttached(t, j, dial(t, ticket.Addr))
	})
	t.Run("when the peer is closed", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		require.NoError(t, wait(t, x).Close())
		requireNotAttached(t, j, dial(t, ticket.Addr))
	})
	t.Run("when another child says that it is its", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		peerOf := joinReady(t, ticket, withControl)
		wait(t, x)
		other, otherTicket := expect(t, l, nil)
		joinReady(t, otherTicket, withControl)
		wait(t, other)
		conn := relay(t, ticket.Addr, func(_ frame.Kind, body []byte) []byte {
			// both ids have the same length
			for i := range len(body) - len(ticket.ID) {
				if string(body[i:i+len(ticket.ID)]) == ticket.ID {
					copy(body[i:], otherTicket.ID)
				}
			}
			return body
		})
		requireNotAttached(t, peerOf, conn)
	})
	t.Run("when it is not told in time", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{HelloTimeout: 20 * time.Millisecond})
		requireDropped(t, dial(t, l.Addr()))
	})
}

func TestControl_CancelledAttachClosesItsConnection(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := joinReady(t, ticket, withControl)
	wait(t, x)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	conn := dial(t, ticket.Addr)
	_, err := j.AttachControl(ctx, conn)
	require.ErrorIs(t, err, context.Canceled)
	requirePhase(t, handshake.PhaseReady, err)
	requireClosed(t, conn)
}

// lateListener delays each accepted connection for 100 ms.
type lateListener struct{ *net.TCPListener }

func (l lateListener) Accept() (net.Conn, error) {
	conn, err := l.TCPListener.Accept()
	if err == nil {
		time.Sleep(100 * time.Millisecond)
	}
	return conn, err
}

func TestLastWords_OnAConnectionStillToBeAccepted(t *testing.T) {
	t.Parallel()
	l, err := handshake.Listen(lateListener{listenTCP(t).(*net.TCPListener)},
		handshake.ListenerConfig{})
	require.NoError(t, err)
	defer l.Close()
	for range 5 {
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		require.NoError(t, attach(t, j, ticket).CloseWith(testkit.Context(t), 1, "no luck"))
		wait(t, x)
		bye, ok := x.Internal(access.Key{}).LastWords(testkit.Context(t))
		require.True(t, ok)
		assert.Equal(t, frame.Goodbye{Status: 1, Reason: "no luck"}, bye)
	}
}

// In all three cases, the child's process has ended without last words.
func TestLastWords_NeverSentAreNotAwaited(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		ctx := testkit.Context(t)
		says := func(attached func(control *transport.Channel)) {
			t.Helper()
			x, ticket := expect(t, l, nil)
			j := joinReady(t, ticket, withControl)
			peer := wait(t, x)
			if attached != nil {
				attached(attach(t, j, ticket))
			}
			_, ok := x.Internal(access.Key{}).LastWords(ctx)
			assert.False(t, ok)
			assert.NoError(t, ctx.Err())
			require.NoError(t, peer.Abort())
		}
		says(nil)
		says(func(control *transport.Channel) { control.Abort() })
		// another process still holds it open
		says(func(*transport.Channel) {})
	})
}
