package handshake_test

import (
	"bytes"
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
)

// ends are a child's ends of its pairs.
type ends struct{ message, control net.Conn }

// usePair connects a child by pairs.
func usePair(t testing.TB, x *handshake.Expected) ends {
	t.Helper()
	var near, far [2]net.Conn
	for i := range near {
		var err error
		near[i], far[i], err = unixsock.Pair()
		require.NoError(t, err)
		t.Cleanup(func() { far[i].Close() })
	}
	x.Internal(access.Key{}).UsePair(near[0], near[1])
	return ends{far[0], far[1]}
}

// expectPair registers a child without SetPID, and connects it by pairs.
func expectPair(
	t testing.TB, l *handshake.Listener, spec []byte,
) (*handshake.Expected, handshake.Ticket, ends) {
	t.Helper()
	x, err := l.Expect(handshake.Expectation{Spec: spec})
	require.NoError(t, err)
	t.Cleanup(x.Cancel)
	return x, x.Ticket(), usePair(t, x)
}

// requireHungUp waits for the end of a connection, and ignores what comes before.
func requireHungUp(t testing.TB, conn net.Conn) {
	t.Helper()
	ch := transport.New(conn, transport.Config{})
	for {
		if _, err := ch.Frames(access.Key{}).Read(testkit.Context(t)); err != nil {
			require.ErrorIs(t, err, transport.ErrPeerGone)
			return
		}
	}
}

// waitError returns the error of a child that does not become ready.
func waitError(t testing.TB, x *handshake.Expected) *handshake.Error {
	t.Helper()
	_, err := x.WaitForPeer(testkit.Context(t))
	var herr *handshake.Error
	require.ErrorAs(t, err, &herr)
	return herr
}

func TestPair_NeedsNoPIDAndHasAControlConnection(t *testing.T) {
	ctx := testkit.Context(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket, far := expectPair(t, l, []byte("spec"))
	j, err := handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{})
	require.NoError(t, err)
	defer j.Channel.Abort()
	assert.Equal(t, "spec", string(j.Spec))
	assert.False(t, j.Control(), "there is nothing to attach")
	require.NoError(t, j.Ready(ctx, nil))
	peer := wait(t, x)
	assert.Equal(t, ticket.ID, peer.ID)

	control := transport.New(far.control, transport.Config{MaxFrameSize: access.PreAuthLimit})
	defer control.Abort()
	require.NoError(t, peer.Cancel(ctx, please))
	requireCancel(t, control)

	require.NoError(t, control.CloseWith(ctx, 3, "no table"))
	bye, ok := x.Internal(access.Key{}).LastWords(ctx)
	require.True(t, ok)
	assert.Equal(t, frame.Goodbye{Status: 3, Reason: "no table"}, bye)
}

func TestPair_SpareIsDismissed(t *testing.T) {
	ctx := testkit.Context(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expectSpare(t, l)
	far := usePair(t, x)
	child := joinLater(t, far.message, ticket,
		handshake.JoinConfig{OnCancel: func(handshake.Cancel) {}})
	requireWelcomed(t, x)
	require.NoError(t, waiting(x).Cancel(ctx, please))
	assert.ErrorIs(t, (<-child).err, access.ErrDismissed)
}

func TestPair_CarriesALargeSpec(t *testing.T) {
	ctx := testkit.Context(t)
	l, err := handshake.Listen(listenUnix(t), handshake.ListenerConfig{})
	require.NoError(t, err)
	defer l.Close()
	spec := bytes.Repeat([]byte("x"), 4<<20)
	x, ticket, far := expectPair(t, l, spec)
	j, err := handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{})
	require.NoError(t, err)
	defer j.Channel.Abort()
	assert.Equal(t, spec, j.Spec)
	require.NoError(t, j.Ready(ctx, nil))
	wait(t, x)

	// This child sends its hello, and reads nothing.
	for _, end := range []func(){func() { x.Cancel() }, func() { l.Close() }} {
		x, ticket, far = expectPair(t, l, spec)
		_, err := far.message.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
		require.NoError(t, err)
		testkit.Eventually(t, "the spec is being sent", func() bool {
			return x.Phase() == handshake.PhaseSpec
		})
		end()
		requireHungUp(t, far.message)
		waitError(t, x)
	}
}

func TestPair_RefusesASpecAboveTheLimit(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{MaxFrameSize: 1 << 20})
	x, ticket, far := expectPair(t, l, make([]byte, 2<<20))
	_, err := far.message.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
	require.NoError(t, err)
	herr := waitError(t, x)
	assert.Equal(t, handshake.PhaseSpec, herr.Phase)
	assert.ErrorAs(t, herr, new(*transport.SizeError))
}

func TestPair_HasNoCommonVersion(t *testing.T) {
	var cfg handshake.ListenerConfig
	cfg.SetVersions(1, 3)
	x, ticket, far := expectPair(t, overUnix(t, cfg), nil)
	child := handshake.JoinConfig{Internal: access.JoinOptions{Versions: [2]uint{4, 5}}}
	_, err := handshake.Join(testkit.Context(t), far.message, ticket, child)
	assert.ErrorAs(t, err, new(*handshake.VersionError))
	var version *handshake.VersionError
	require.ErrorAs(t, waitError(t, x), &version)
	assert.Equal(t, [2]uint{4, 5}, version.Theirs)
}

func TestPair_EndsTheWait(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	for sent, phase := range map[string]handshake.Phase{
		"": handshake.PhaseConnect, "\x00\x00": handshake.PhaseConnect,
		"GET / HTTP/1.1\r\n": handshake.PhaseHello,
	} {
		x, _, far := expectPair(t, l, nil)
		_, err := far.message.Write([]byte(sent))
		require.NoError(t, err)
		require.NoError(t, far.message.Close())
		herr := waitError(t, x)
		assert.Equal(t, phase, herr.Phase, "after %q", sent)
		if phase == handshake.PhaseConnect {
			assert.ErrorIs(t, herr, transport.ErrPeerGone)
		}
		requireHungUp(t, far.control)
	}
}

func TestPair_ReadsWhatADeadChildHasSent(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket, far := expectPair(t, l, nil)
	_, err := far.message.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
	require.NoError(t, err)
	require.NoError(t, far.message.Close())
	x.Internal(access.Key{}).AwaitWords(testkit.Context(t))
	select {
	case <-x.Done():
		assert.Equal(t, handshake.PhaseSpec, waitError(t, x).Phase)
	default:
		require.Fail(t, "not read")
	}
}

func TestPair_TakesNoOtherChildsHello(t *testing.T) {
	ctx := testkit.Context(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket, far := expectPair(t, l, nil)
	other, otherTicket := expect(t, l, nil)
	_, err := handshake.Join(ctx, far.message, otherTicket, handshake.JoinConfig{})
	require.Error(t, err)
	assert.ErrorIs(t, waitError(t, x), handshake.ErrUnknownPeer)
	requireHungUp(t, far.control)
	requireJoins(t, other, otherTicket)

	x, ticket, far = expectPair(t, l, nil)
	_, err = handshake.Join(ctx, far.message,
		handshake.NewTicket(ticket.Addr, ticket.ID), handshake.JoinConfig{})
	require.Error(t, err)
	assert.ErrorIs(t, waitError(t, x), handshake.ErrBadMAC)
}

func TestPair_IsClosedByCancelAndClose(t *testing.T) {
	l, err := handshake.Listen(listenUnix(t), handshake.ListenerConfig{})
	require.NoError(t, err)
	requireClosedPair := func(far ends) {
		requireHungUp(t, far.message)
		requireHungUp(t, far.control)
	}
	first, _, cancelled := expectPair(t, l, nil)
	first.Cancel()
	assert.ErrorIs(t, waitError(t, first), context.Canceled)
	requireClosedPair(cancelled)

	second, _, closed := expectPair(t, l, nil)
	third, err := l.Expect(handshake.Expectation{})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	assert.ErrorIs(t, waitError(t, second), handshake.ErrListenerClosed)
	requireClosedPair(closed)
	requireClosedPair(usePair(t, third))
	assert.Equal(t, handshake.Held{}, l.Held())
}
