package handshake_test

import (
	"context"
	"net"
	"syscall"
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

// expectSpare registers a spare.
func expectSpare(t testing.TB, l *handshake.Listener) (*handshake.Expected, handshake.Ticket) {
	t.Helper()
	x, ticket := expect(t, l, nil)
	x.Internal(access.Key{}).HoldSpec()
	return x, ticket
}

// sendSpec sends the spec to a spare.
func sendSpec(t testing.TB, x *handshake.Expected, spec string) {
	t.Helper()
	require.NoError(t, x.Internal(access.Key{}).SendSpec(testkit.Context(t), []byte(spec)))
}

// requireNoSpec checks that SendSpec fails.
func requireNoSpec(t testing.TB, x *handshake.Expected) {
	t.Helper()
	require.Error(t, x.Internal(access.Key{}).SendSpec(testkit.Context(t), nil))
}

// waiting returns the spare if it waits for its spec, or nil.
func waiting(x *handshake.Expected) *handshake.Peer { return x.Internal(access.Key{}).Waiting() }

type joined struct {
	*handshake.Joined
	err error
}

// joinLater joins in the background. The result arrives when the child has a
// spec or an error.
func joinLater(
	t testing.TB, conn net.Conn, ticket handshake.Ticket, cfg handshake.JoinConfig,
) <-chan joined {
	done := make(chan joined, 1)
	ctx := testkit.Context(t)
	go func() {
		j, err := handshake.Join(ctx, conn, ticket, cfg)
		if err == nil {
			t.Cleanup(func() { j.Channel.Abort() })
		}
		done <- joined{j, err}
	}()
	return done
}

// joinSpare joins a spare in the background and waits until it is welcomed.
func joinSpare(
	t testing.TB, x *handshake.Expected, ticket handshake.Ticket, cfg handshake.JoinConfig,
) <-chan joined {
	t.Helper()
	done := joinLater(t, dial(t, ticket.Addr), ticket, cfg)
	requireWelcomed(t, x)
	return done
}

func requireWelcomed(t testing.TB, x *handshake.Expected) {
	t.Helper()
	select {
	case <-x.Internal(access.Key{}).Welcomed():
	case <-x.Done():
		require.Fail(t, "the handshake has failed")
	case <-testkit.Context(t).Done():
		require.Fail(t, "not welcomed")
	}
}

func TestSpare_GetsItsSpecLater(t *testing.T) {
	t.Parallel()
	overNetworks(t, func(t *testing.T, n link) {
		ctx := testkit.Context(t)
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: enough})
		x, ticket := expectSpare(t, l)
		requireNoSpec(t, x) // before the welcome
		child := joinSpare(t, x, ticket, withControl)
		select {
		case <-child:
			require.Fail(t, "it has joined without a spec")
		case <-time.After(enough + enough/4): // HelloTimeout must not end the wait
		}
		assert.Equal(t, handshake.PhaseSpec, x.Phase())
		peer := waiting(x)
		require.NotNil(t, peer)

		sent := time.Now()
		sendSpec(t, x, "the spec")
		requireNoSpec(t, x) // a second time
		assert.Nil(t, waiting(x))
		j := <-child
		require.NoError(t, j.err)
		assert.Equal(t, "the spec", string(j.Spec))

		require.NoError(t, j.Ready(ctx, nil))
		require.Same(t, peer, wait(t, x))
		assert.False(t, x.Internal(access.Key{}).Since()[handshake.PhaseSpec].Before(sent))

		require.NoError(t, j.Channel.Send(ctx, "up"))
		requireReceives(t, peer.Channel, "up")
		control := attach(t, j.Joined, ticket)
		require.NoError(t, peer.Cancel(ctx, please))
		requireCancel(t, control)
	})
}

func TestSpare_IsDismissedByCancel(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expectSpare(t, l)
		asked := make(chan handshake.Cancel, 1)
		child := joinSpare(t, x, ticket, handshake.JoinConfig{OnCancel: func(c handshake.Cancel) {
			asked <- c
		}})
		require.NoError(t, waiting(x).Cancel(testkit.Context(t), please))
		j := <-child
		require.ErrorIs(t, j.err, access.ErrDismissed)
		assert.Equal(t, please, <-asked)
		assert.ErrorContains(t, j.err, "not needed: enough")
	})
}

// welcomeBare makes a spare without Join, and returns its connection.
func welcomeBare(t *testing.T, x *handshake.Expected, ticket handshake.Ticket) net.Conn {
	t.Helper()
	conn := dial(t, ticket.Addr)
	_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
	require.NoError(t, err)
	requireFrame(t, conn, frame.KindWelcome)
	requireWelcomed(t, x)
	require.NotNil(t, waiting(x))
	return conn
}

// The parent logs nothing if a spare ends while it waits.
func TestSpare_EndsBeforeItsSpec(t *testing.T) {
	for name, c := range map[string]struct {
		do  func(t *testing.T, conn net.Conn)
		err error
	}{
		"it closes its connection": {func(t *testing.T, conn net.Conn) {
			conn.Close()
		}, transport.ErrPeerGone},
		"it sends ready": {func(t *testing.T, conn net.Conn) {
			_, err := conn.Write(frameOf(frame.KindReady, encoded(t, fields{"timings": fields{}})))
			require.NoError(t, err)
		}, transport.ErrProtocol},
		"it fails": {func(t *testing.T, conn net.Conn) {
			_, err := conn.Write(frameOf(frame.KindFailed,
				encoded(t, fields{"phase": "spec", "code": "bad-spec", "error": "no"})))
			require.NoError(t, err)
		}, handshake.ErrBadSpec},
	} {
		t.Run(name, func(t *testing.T) {
			overNetworks(t, func(t *testing.T, n link) {
				log := newLogbook()
				l := listen(t, n, handshake.ListenerConfig{Logger: log.logger()})
				x, ticket := expectSpare(t, l)
				c.do(t, welcomeBare(t, x, ticket))
				_, err := x.WaitForPeer(testkit.Context(t))
				require.ErrorIs(t, err, c.err)
				requirePhase(t, handshake.PhaseSpec, err)
				assert.Nil(t, waiting(x))
				requireNoSpec(t, x)
				require.NoError(t, l.Close())
				assert.Empty(t, log.with(t, 0, saysFailed))
			})
		})
	}
}

func TestSpare_EndsWithoutReadingItsSpec(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expectSpare(t, l)
		conn := welcomeBare(t, x, ticket)
		sendSpec(t, x, "")
		if tls, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS would send an alert first
			conn = tls.NetConn()
		}
		require.NoError(t, conn.Close())
		_, err := x.WaitForPeer(testkit.Context(t))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	})
}

func TestSpare_IsReleased(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*handshake.Expected, *handshake.Listener)
		want error
	}{
		"by Cancel": {func(x *handshake.Expected, _ *handshake.Listener) {
			x.Cancel()
		}, context.Canceled},
		"by Listener.Close": {func(_ *handshake.Expected, l *handshake.Listener) {
			l.Close()
		}, handshake.ErrListenerClosed},
	} {
		for when, hasSpec := range map[string]bool{"before its spec": false,
			"before its answer": true} {
			t.Run(name+" "+when, func(t *testing.T) {
				l := overUnix(t, handshake.ListenerConfig{})
				x, ticket := expectSpare(t, l)
				child := joinSpare(t, x, ticket, handshake.JoinConfig{})
				if hasSpec {
					sendSpec(t, x, "")
				}
				c.end(x, l)
				_, err := x.WaitForPeer(testkit.Context(t))
				require.ErrorIs(t, err, c.want)
				j := <-child
				if hasSpec {
					require.NoError(t, j.err)
					requireGone(t, j.Channel)
				} else {
					require.ErrorIs(t, j.err, transport.ErrPeerGone)
				}
				assert.Nil(t, waiting(x))
				requireNoSpec(t, x)
			})
		}
	}
}
