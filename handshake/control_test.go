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
	"github.com/spawnwire/spawnwire/transport"
)

var please = transport.Cancel{Reason: "enough", Grace: 3 * time.Second}

// attach opens a child's control connection.
func attach(t testing.TB, j *handshake.Joined, ticket handshake.Ticket) *transport.Channel {
	t.Helper()
	control, err := j.AttachControl(testContext(t), dial(t, ticket.Addr))
	require.NoError(t, err)
	t.Cleanup(func() { control.Abort() })
	return control
}

func requireCancel(t testing.TB, ch *transport.Channel) {
	t.Helper()
	f, err := ch.ReadFrame(testContext(t))
	require.NoError(t, err)
	require.Equal(t, transport.KindCancel, f.Kind)
	c, err := transport.ParseCancel(f.Body)
	require.NoError(t, err)
	require.Equal(t, please, c)
}

// requireAttached waits until the parent has accepted a control connection.
func requireAttached(t testing.TB, l *handshake.Listener) {
	t.Helper()
	eventually(t, func() bool { return l.Held() == handshake.Held{} }, "the control connection is accepted")
}

var withControl = handshake.JoinConfig{Control: true}

func TestCancelComesOverTheControlConnection(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		ctx := testContext(t)
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		require.True(t, j.Control())
		peer := wait(t, x)
		control := attach(t, j, ticket)
		requireAttached(t, l)

		// The child is busy and its messages are stuck: the request still arrives.
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

func TestCloseSaysGoodbyeOnBothConnections(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := joinReady(t, ticket, withControl)
	peer := wait(t, x)
	control := attach(t, j, ticket)
	requireAttached(t, l)
	require.NoError(t, peer.Close())
	for _, ch := range []*transport.Channel{control, j.Channel} {
		var bye *transport.GoodbyeError
		require.ErrorAs(t, ch.Recv(testContext(t), new(any)), &bye)
	}
	require.ErrorIs(t, peer.Close(), transport.ErrClosed)
	require.Error(t, peer.Cancel(testContext(t), please))
}

func TestACancelBeforeTheControlConnectionComesBothWays(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	asked := make(chan transport.Cancel, 1)
	j := joinReady(t, ticket, handshake.JoinConfig{Control: true, OnCancel: func(c transport.Cancel) { asked <- c }})
	peer := wait(t, x)
	require.NoError(t, peer.Cancel(ctx, please))
	requireCancel(t, attach(t, j, ticket))
	require.NoError(t, peer.Channel.Send(ctx, "on"))
	requireReceives(t, j.Channel, "on")
	assert.Equal(t, please, <-asked)
}

func TestAPeerWithoutAControlConnectionIsAskedInBand(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		ctx := testContext(t)
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		asked := make(chan transport.Cancel, 1)
		j := joinReady(t, ticket, handshake.JoinConfig{OnCancel: func(c transport.Cancel) { asked <- c }})
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

func TestACancelFallsBackToTheChannelWhenTheControlConnectionIsCut(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	asked := make(chan transport.Cancel, 1)
	j := joinReady(t, ticket, handshake.JoinConfig{Control: true, OnCancel: func(c transport.Cancel) { asked <- c }})
	peer := wait(t, x)
	control := attach(t, j, ticket)
	requireAttached(t, l)
	require.NoError(t, control.Abort())
	require.NoError(t, peer.Cancel(ctx, please))
	require.NoError(t, peer.Channel.Send(ctx, "on"))
	requireReceives(t, j.Channel, "on")
	assert.Equal(t, please, <-asked)
}

func TestAControlConnectionMayComeBeforeReady(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := join(t, ticket, withControl)
	control := attach(t, j, ticket)
	requireAttached(t, l)
	require.NoError(t, j.Ready(testContext(t), handshake.Timings{}))
	require.NoError(t, wait(t, x).Cancel(testContext(t), please))
	requireCancel(t, control)

	t.Run("and ends with a child that fails", func(t *testing.T) {
		x, ticket := expect(t, l, nil)
		j := join(t, ticket, withControl)
		control := attach(t, j, ticket)
		requireAttached(t, l)
		require.NoError(t, j.Fail(testContext(t), handshake.FailedError{Phase: handshake.PhaseReady, Text: "no"}))
		_, err := x.WaitForPeer(testContext(t))
		require.Error(t, err)
		requireGone(t, control)
	})
}

// requireNotAttached checks that the parent says that it does not accept a control connection, so
// that a child can tell that from a parent that is gone.
func requireNotAttached(t testing.TB, control *transport.Channel) {
	t.Helper()
	f, err := control.ReadFrame(testContext(t))
	require.NoError(t, err)
	require.Equal(t, transport.KindFailed, f.Kind)
	requireGone(t, control)
}

func TestAControlConnectionIsRefused(t *testing.T) {
	t.Run("when it does not prove the session", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		peer := wait(t, x)
		payload := encoded(t, fields{"id": ticket.ID, "nonce": make([]byte, 32)})
		for _, key := range [][]byte{ticket.Secret[:], nil, make([]byte, 32)} {
			requireRefused(t, say(t, ticket.Addr, frame(transport.KindAttach, sealed(t, key, "spawnwire attach", payload))))
		}
		control := attach(t, j, ticket) // the real one is not disturbed
		requireAttached(t, l)
		require.NoError(t, peer.Cancel(testContext(t), please))
		requireCancel(t, control)
	})
	t.Run("when there is one", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		peer := wait(t, x)
		control := attach(t, j, ticket)
		requireAttached(t, l)
		requireNotAttached(t, attach(t, j, ticket))
		require.NoError(t, peer.Cancel(testContext(t), please))
		requireCancel(t, control)
	})
	t.Run("when it was not announced", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, handshake.JoinConfig{})
		wait(t, x)
		requireNotAttached(t, attach(t, j, ticket))
	})
	t.Run("when the peer is closed", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		require.NoError(t, wait(t, x).Close())
		requireNotAttached(t, attach(t, j, ticket))
	})
	t.Run("when another child says that it is its", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		peerOf := joinReady(t, ticket, withControl)
		wait(t, x)
		other, otherTicket := expect(t, l, nil)
		joinReady(t, otherTicket, withControl)
		wait(t, other)
		conn := relay(t, ticket.Addr, func(_ transport.Kind, body []byte) []byte {
			// the id is as long as the other's
			for i := range len(body) - len(ticket.ID) {
				if string(body[i:i+len(ticket.ID)]) == ticket.ID {
					copy(body[i:], otherTicket.ID)
				}
			}
			return body
		})
		control, err := peerOf.AttachControl(testContext(t), conn)
		require.NoError(t, err)
		requireNotAttached(t, control)
		require.NoError(t, control.Abort())
	})
	t.Run("when it is not told in time", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{HelloTimeout: 20 * time.Millisecond})
		requireDropped(t, dial(t, l.Addr()))
	})
}

func TestACancelledAttachClosesItsConnection(t *testing.T) {
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

// lateListener returns each connection a while after it was made.
type lateListener struct{ *net.TCPListener }

func (l lateListener) Accept() (net.Conn, error) {
	conn, err := l.TCPListener.Accept()
	if err == nil {
		time.Sleep(100 * time.Millisecond)
	}
	return conn, err
}

func TestLastWordsAreFoundOnAControlConnectionThatIsStillToBeAccepted(t *testing.T) {
	l, err := handshake.Listen(lateListener{listenTCP(t).(*net.TCPListener)}, handshake.ListenerConfig{})
	require.NoError(t, err)
	defer l.Close()
	for range 5 {
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, withControl)
		peer := wait(t, x)
		require.NoError(t, attach(t, j, ticket).CloseWith(testContext(t), 1, "no luck"))
		bye := peer.LastWords(testContext(t))
		require.NotNil(t, bye)
		assert.Equal(t, "no luck", bye.Reason)
	}
}

// The process has ended, in all three cases.
func TestLastWordsThatWereNeverSaidAreNotWaitedFor(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		l := listen(t, n, handshake.ListenerConfig{})
		ctx := testContext(t)
		says := func(attached func(control *transport.Channel)) {
			t.Helper()
			x, ticket := expect(t, l, nil)
			j := joinReady(t, ticket, withControl)
			peer := wait(t, x)
			if attached != nil {
				attached(attach(t, j, ticket))
			}
			assert.Nil(t, peer.LastWords(ctx))
			assert.NoError(t, ctx.Err())
			require.NoError(t, peer.Abort())
		}
		says(nil)
		says(func(control *transport.Channel) { control.Abort() })
		says(func(*transport.Channel) { requireAttached(t, l) }) // and another process has it open
	})
}
