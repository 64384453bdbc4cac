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

// expectReserve registers a child that is kept waiting for its spec.
func expectReserve(t testing.TB, l *handshake.Listener) (*handshake.Expected, handshake.Ticket) {
	t.Helper()
	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Reserve: true})
	require.NoError(t, err)
	x.SetPID(0) // the child is no process of its own
	t.Cleanup(x.Cancel)
	return x, ticket
}

type joined struct {
	*handshake.Joined
	err error
}

// joinLater joins in the background, and returns the child's side when there is a spec, or an error.
func joinLater(t testing.TB, ticket handshake.Ticket, cfg handshake.JoinConfig) <-chan joined {
	conn := dial(t, ticket.Addr)
	done := make(chan joined, 1)
	ctx := testContext(t)
	go func() {
		j, err := handshake.Join(ctx, conn, ticket, cfg)
		if err == nil {
			t.Cleanup(func() { j.Channel.Abort() })
		}
		done <- joined{j, err}
	}()
	return done
}

func requireWelcomed(t testing.TB, x *handshake.Expected) {
	t.Helper()
	select {
	case <-x.Welcomed():
	case <-x.Done():
		require.Fail(t, "the handshake has failed")
	case <-testContext(t).Done():
		require.Fail(t, "not welcomed")
	}
}

func TestAChildInReserveGetsItsSpecLater(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		t.Parallel()
		ctx := testContext(t)
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: enough})
		x, ticket := expectReserve(t, l)
		require.Error(t, x.Give(ctx, []byte("orders")), "not before it is welcomed")
		child := joinLater(t, ticket, withControl)
		requireWelcomed(t, x)
		select {
		case <-child:
			require.Fail(t, "it has no spec, and waits")
		case <-time.After(enough + enough/4): // HelloTimeout is not for it
		}
		require.True(t, x.Waits())
		assert.Equal(t, handshake.PhaseSpec, x.Phase())
		peer := x.Reserved()
		require.NotNil(t, peer)

		given := time.Now()
		require.NoError(t, x.Give(ctx, []byte("orders")))
		require.Error(t, x.Give(ctx, []byte("orders")), "once")
		assert.False(t, x.Waits())
		j := <-child
		require.NoError(t, j.err)
		assert.Equal(t, "orders", string(j.Spec))

		short, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, x.Answer(short), context.Canceled)
		require.NoError(t, j.Ready(ctx, handshake.Timings{Main: 7}))
		require.NoError(t, x.Answer(ctx), "that a call was cut short does no harm")
		require.Same(t, peer, wait(t, x))
		assert.EqualValues(t, 7, peer.Timings.Main)
		assert.Nil(t, x.Reserved())
		assert.False(t, x.Since()[handshake.PhaseSpec].Before(given))

		require.NoError(t, j.Channel.Send(ctx, "up"))
		requireReceives(t, peer.Channel, "up")
		control := attach(t, j.Joined, ticket)
		requireAttached(t, l)
		require.NoError(t, peer.Cancel(ctx, please))
		requireCancel(t, control)
	})
}

func TestAChildInReserveThatPeeks(t *testing.T) {
	start := func(t *testing.T, n network) (*handshake.Expected, *handshake.Joined) {
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expectReserve(t, l)
		child := joinLater(t, ticket, handshake.JoinConfig{Peek: true})
		requireWelcomed(t, x)
		require.NoError(t, x.Give(testContext(t), []byte("orders")))
		j := <-child
		require.NoError(t, j.err)
		require.Equal(t, "orders", string(j.Spec))
		return x, j.Joined
	}
	overNetworks(t, func(t *testing.T, n network) {
		x, j := start(t, n)
		require.NoError(t, j.Ready(testContext(t), handshake.Timings{}))
		require.NoError(t, x.Answer(testContext(t)))
		peer := wait(t, x)
		require.NoError(t, peer.Channel.Send(testContext(t), "next"))
		var got string
		require.NoError(t, j.Channel.Recv(testContext(t), &got))
		assert.Equal(t, "next", got)
		require.NoError(t, j.Channel.Abort())
		err := peer.Channel.Recv(testContext(t), new(any))
		require.ErrorIs(t, err, transport.ErrPeerGone)
		assert.NotErrorIs(t, err, transport.ErrReset, "its spec was read when it said ready")
	})
	t.Run("and gives up", func(t *testing.T) {
		overNetworks(t, func(t *testing.T, n network) {
			x, j := start(t, n)
			require.NoError(t, j.Fail(testContext(t), handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "no"}))
			require.NoError(t, x.Answer(testContext(t)))
			_, err := x.WaitForPeer(testContext(t))
			var said *handshake.FailedError
			require.ErrorAs(t, err, &said)
			assert.Equal(t, "no", said.Text)
		})
	})
	t.Run("and is gone before it has answered", func(t *testing.T) {
		eventually(t, func() bool { // not if it has read the spec together with its welcome
			x, j := start(t, networks[0])
			require.NoError(t, j.Channel.Abort())
			require.NoError(t, x.Answer(testContext(t)))
			_, err := x.WaitForPeer(testContext(t))
			require.ErrorIs(t, err, transport.ErrPeerGone)
			return errors.Is(err, transport.ErrReset)
		}, "it counts as one that has not read its spec")
	})
}

func TestAChildInReserveThatIsNotNeededIsTold(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expectReserve(t, l)
		asked := make(chan transport.Cancel, 1)
		child := joinLater(t, ticket, handshake.JoinConfig{OnCancel: func(c transport.Cancel) { asked <- c }})
		requireWelcomed(t, x)
		require.NoError(t, x.Reserved().Cancel(testContext(t), please))
		j := <-child
		require.ErrorIs(t, j.err, handshake.ErrDismissed)
		assert.Equal(t, please, <-asked)
		assert.ErrorContains(t, j.err, "not needed: enough")
	})
}

func TestAChildInReserveDoesWhatItShouldNot(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, j *handshake.Joined){
		"it is gone": func(t *testing.T, j *handshake.Joined) { require.NoError(t, j.Channel.Abort()) },
		"it says ready": func(t *testing.T, j *handshake.Joined) {
			require.NoError(t, j.Ready(testContext(t), handshake.Timings{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			// One that has its spec stands for it.
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expectReserve(t, l)
			child := joinLater(t, ticket, handshake.JoinConfig{})
			requireWelcomed(t, x)
			require.NoError(t, x.Give(testContext(t), nil))
			j := <-child
			require.NoError(t, j.err)
			require.False(t, x.Unread())
			do(t, j.Joined)
			eventually(t, x.Unread, "it is seen without a read")
		})
	}
	t.Run("it is gone before its spec is there", func(t *testing.T) {
		overNetworks(t, func(t *testing.T, n network) {
			l := listen(t, n, handshake.ListenerConfig{})
			x, ticket := expectReserve(t, l)
			conn := dial(t, ticket.Addr)
			_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
			require.NoError(t, err)
			requireFrame(t, conn, transport.KindWelcome)
			requireWelcomed(t, x)
			require.True(t, x.Waits())
			require.NoError(t, conn.Close())
			eventually(t, func() bool { return !x.Waits() }, "its end is seen")
			if err := x.Give(testContext(t), nil); err != nil { // TCP takes it
				require.ErrorIs(t, err, transport.ErrPeerGone)
			}
			require.NoError(t, x.Answer(testContext(t)))
			_, err = x.WaitForPeer(testContext(t))
			require.ErrorIs(t, err, transport.ErrPeerGone)
		})
	})
	t.Run("it ends without having read its spec", func(t *testing.T) {
		overNetworks(t, func(t *testing.T, n network) {
			l := listen(t, n, handshake.ListenerConfig{})
			x, ticket := expectReserve(t, l)
			conn := dial(t, ticket.Addr)
			_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
			require.NoError(t, err)
			requireFrame(t, conn, transport.KindWelcome)
			requireWelcomed(t, x)
			require.NoError(t, x.Give(testContext(t), nil))
			if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS, which would say goodbye
				conn = over.NetConn()
			}
			require.NoError(t, conn.Close())
			require.NoError(t, x.Answer(testContext(t)))
			_, err = x.WaitForPeer(testContext(t))
			require.ErrorIs(t, err, transport.ErrReset)
		})
	})
}

func TestAChildInReserveIsLetGo(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*handshake.Expected, *handshake.Listener)
		want error
	}{
		"with Cancel":             {func(x *handshake.Expected, _ *handshake.Listener) { x.Cancel() }, context.Canceled},
		"with the Listener's end": {func(_ *handshake.Expected, l *handshake.Listener) { l.Close() }, handshake.ErrClosed},
	} {
		for when, given := range map[string]bool{"before its spec": false, "before its answer": true} {
			t.Run(name+" "+when, func(t *testing.T) {
				l := overUnix(t, handshake.ListenerConfig{})
				x, ticket := expectReserve(t, l)
				child := joinLater(t, ticket, handshake.JoinConfig{})
				requireWelcomed(t, x)
				answered := make(chan error, 1)
				if given {
					require.NoError(t, x.Give(testContext(t), nil))
					go func() { answered <- x.Answer(testContext(t)) }()
				}
				c.end(x, l)
				_, err := x.WaitForPeer(testContext(t))
				require.ErrorIs(t, err, c.want)
				j := <-child
				if given {
					require.NoError(t, j.err)
					require.NoError(t, <-answered)
					requireGone(t, j.Channel)
				} else {
					require.ErrorIs(t, j.err, transport.ErrPeerGone)
				}
				assert.Nil(t, x.Reserved())
				assert.Zero(t, l.Held().Reserves)
				require.Error(t, x.Give(testContext(t), nil))
			})
		}
	}
}
