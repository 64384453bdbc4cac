package handshake_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// given is what a child gets from whoever starts it.
type given struct{ message, control net.Conn }

// serve has a child expected on pairs.
func serve(t testing.TB, x *handshake.Expected) given {
	t.Helper()
	var near, far [2]net.Conn
	for i := range near {
		var err error
		near[i], far[i], err = uds.Pair()
		require.NoError(t, err)
		t.Cleanup(func() { far[i].Close() })
	}
	x.Serve(near[0], near[1])
	return given{far[0], far[1]}
}

// expectUnnamed is expect for a child of which nobody knows yet which process it is.
func expectUnnamed(t testing.TB, l *handshake.Listener, reserve bool) (*handshake.Expected, handshake.Ticket) {
	t.Helper()
	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Spec: []byte("spec"), Reserve: reserve})
	require.NoError(t, err)
	t.Cleanup(x.Cancel)
	return x, ticket
}

// requireHungUp expects a connection's end, after whatever is said before it.
func requireHungUp(t testing.TB, conn net.Conn) {
	t.Helper()
	ch := transport.New(conn, transport.Config{})
	for {
		if _, err := ch.ReadFrame(testContext(t)); err != nil {
			require.ErrorIs(t, err, transport.ErrPeerGone)
			return
		}
	}
}

func TestAChildOnAPairNeedsNoPIDAndHasItsControlConnection(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expectUnnamed(t, l, false)
	far := serve(t, x)
	j, err := handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{Ahead: true})
	require.NoError(t, err)
	defer j.Channel.Abort()
	assert.Equal(t, "spec", string(j.Spec))
	assert.False(t, j.Control(), "there is nothing to attach")
	require.NoError(t, j.Ready(ctx, handshake.Timings{}))
	require.NoError(t, x.Answer(ctx))
	peer, err := x.WaitForPeer(ctx)
	require.NoError(t, err)
	defer peer.Abort()
	assert.Equal(t, ticket.ID, peer.ID)

	control := transport.New(far.control, transport.Config{Limit: handshake.PreAuthLimit})
	defer control.Abort()
	require.NoError(t, peer.Cancel(ctx, transport.Cancel{Reason: "enough"}))
	f, err := control.ReadFrame(ctx)
	require.NoError(t, err)
	cancel, err := transport.ParseCancel(f.Body)
	require.NoError(t, err)
	assert.Equal(t, "enough", cancel.Reason)

	require.NoError(t, control.CloseWith(ctx, 3, "no table"))
	bye := peer.LastWords(ctx)
	require.NotNil(t, bye)
	assert.Equal(t, "no table", bye.Reason)
}

func TestAChildInReserveOnAPairIsDismissedWhereItListens(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expectUnnamed(t, l, true)
	far := serve(t, x)
	done := make(chan error, 1)
	go func() {
		_, err := handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{Ahead: true, OnCancel: func(transport.Cancel) {}})
		done <- err
	}()
	require.NoError(t, x.Answer(ctx))
	requireWelcomed(t, x)
	assert.True(t, x.Waits())
	require.NoError(t, x.Reserved().Cancel(ctx, transport.Cancel{Reason: "no use"}))
	assert.ErrorIs(t, <-done, handshake.ErrDismissed)
}

func TestAnAnswerOnAPairIsWaitedForOnceMore(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expectUnnamed(t, l, false)
	far := serve(t, x)
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	var herr *handshake.Error
	require.ErrorAs(t, x.Answer(soon()), &herr)
	assert.Equal(t, handshake.PhaseConnect, herr.Phase)
	assert.ErrorIs(t, herr, context.DeadlineExceeded)
	j, err := handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{Ahead: true})
	require.NoError(t, err, "of whose hello nobody has taken notice yet")
	defer j.Channel.Abort()
	require.ErrorAs(t, x.Answer(soon()), &herr)
	assert.Equal(t, handshake.PhaseSpec, herr.Phase)
	require.NoError(t, j.Ready(ctx, handshake.Timings{}))
	require.NoError(t, x.Answer(ctx))
	peer, err := x.WaitForPeer(ctx)
	require.NoError(t, err)
	peer.Abort()
}

func TestALargeSpecGoesAheadToo(t *testing.T) {
	ctx := testContext(t)
	l, err := handshake.Listen(listenUnix(t), handshake.ListenerConfig{})
	require.NoError(t, err)
	defer l.Close()
	spec := bytes.Repeat([]byte("x"), 4<<20)
	expectLarge := func() (*handshake.Expected, handshake.Ticket, given) {
		ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
		x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Spec: spec})
		require.NoError(t, err)
		t.Cleanup(x.Cancel)
		return x, ticket, serve(t, x)
	}
	x, ticket, far := expectLarge()
	j, err := handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{Ahead: true})
	require.NoError(t, err)
	defer j.Channel.Abort()
	assert.Equal(t, spec, j.Spec)
	require.NoError(t, j.Ready(ctx, handshake.Timings{}))
	require.NoError(t, x.Answer(ctx))
	peer, err := x.WaitForPeer(ctx)
	require.NoError(t, err)
	peer.Abort()

	x, _, far = expectLarge() // which nobody reads
	x.Cancel()
	requireHungUp(t, far.message)
	_, _, far = expectLarge()
	require.NoError(t, l.Close())
	requireHungUp(t, far.message)
}

func TestASpecAboveTheLimitIsToldOnAPairAtOnce(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{Limit: 1 << 20})
	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Spec: make([]byte, 2<<20)})
	require.NoError(t, err)
	defer x.Cancel()
	serve(t, x)
	_, err = x.WaitForPeer(ctx)
	var herr *handshake.Error
	require.ErrorAs(t, err, &herr)
	assert.Equal(t, handshake.PhaseSpec, herr.Phase)
	assert.ErrorAs(t, err, new(*transport.SizeError))
	assert.NoError(t, x.Answer(ctx), "nobody waits for a hello then")
}

func TestBothMustAgreeWhoSpeaksFirst(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expectUnnamed(t, l, false)
	_, err := handshake.Join(ctx, serve(t, x).message, ticket, handshake.JoinConfig{})
	assert.ErrorIs(t, err, handshake.ErrBadMAC, "a welcome that is none for its hello")
}

func TestNoCommonVersionOnAPair(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{Versions: handshake.Range{Min: 1, Max: 3}})
	for _, theirs := range []handshake.Range{{Min: 4, Max: 5}, {Min: 1, Max: 2}} {
		x, ticket := expectUnnamed(t, l, false)
		_, err := handshake.Join(ctx, serve(t, x).message, ticket, handshake.JoinConfig{Ahead: true, Versions: theirs})
		assert.ErrorAs(t, err, new(*handshake.VersionError), "who speaks ahead offers the highest of its own alone")
		require.NoError(t, x.Answer(ctx))
		_, err = x.WaitForPeer(ctx)
		var verr *handshake.VersionError
		require.ErrorAs(t, err, &verr)
		assert.Equal(t, theirs, verr.Theirs)
	}
}

func TestTheEndOfAPairIsTheEndOfTheWait(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	for said, phase := range map[string]handshake.Phase{"": handshake.PhaseConnect, "\x00\x00": handshake.PhaseConnect, "GET / HTTP/1.1\r\n": handshake.PhaseHello} {
		x, _ := expectUnnamed(t, l, false)
		far := serve(t, x)
		_, err := far.message.Write([]byte(said))
		require.NoError(t, err)
		require.NoError(t, far.message.Close())
		require.NoError(t, x.Answer(ctx))
		_, err = x.WaitForPeer(ctx)
		var herr *handshake.Error
		require.ErrorAs(t, err, &herr)
		assert.Equal(t, phase, herr.Phase, "after %q", said)
		if phase == handshake.PhaseConnect {
			assert.ErrorIs(t, err, transport.ErrPeerGone)
		}
		requireHungUp(t, far.control)
	}
}

// TestWhatADeadChildHasSaidOnAPairIsHeard has a hello, and no child any more.
func TestWhatADeadChildHasSaidOnAPairIsHeard(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expectUnnamed(t, l, false)
	far := serve(t, x)
	_, err := handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{Ahead: true, Meanwhile: func() { far.message.Close() }})
	require.Error(t, err)
	require.NoError(t, x.Answer(ctx))
	_, err = x.WaitForPeer(ctx)
	var herr *handshake.Error
	require.ErrorAs(t, err, &herr)
	assert.Equal(t, handshake.PhaseSpec, herr.Phase)
}

func TestAPairTakesNoOtherChildsHello(t *testing.T) {
	ctx := testContext(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expectUnnamed(t, l, false)
	other, otherTicket := expect(t, l, nil)
	far := serve(t, x)
	_, err := handshake.Join(ctx, far.message, otherTicket, handshake.JoinConfig{Ahead: true})
	require.Error(t, err)
	require.NoError(t, x.Answer(ctx))
	_, err = x.WaitForPeer(ctx)
	assert.ErrorIs(t, err, handshake.ErrUnknownPeer)
	requireHungUp(t, far.control)

	j, err := handshake.Join(ctx, dial(t, otherTicket.Addr), otherTicket, handshake.JoinConfig{})
	require.NoError(t, err, "the other child is not disturbed")
	defer j.Channel.Abort()
	require.NoError(t, j.Ready(ctx, handshake.Timings{}))
	peer, err := other.WaitForPeer(ctx)
	require.NoError(t, err)
	peer.Abort()

	x, ticket = expectUnnamed(t, l, false)
	far = serve(t, x)
	ticket.Secret = handshake.NewSecret()
	_, err = handshake.Join(ctx, far.message, ticket, handshake.JoinConfig{Ahead: true})
	require.Error(t, err)
	require.NoError(t, x.Answer(ctx))
	_, err = x.WaitForPeer(ctx)
	assert.ErrorIs(t, err, handshake.ErrBadMAC)
}

func TestCancelAndCloseEndPairs(t *testing.T) {
	ctx := testContext(t)
	l, err := handshake.Listen(listenUnix(t), handshake.ListenerConfig{})
	require.NoError(t, err)
	first, _ := expectUnnamed(t, l, false)
	cancelled := serve(t, first)
	first.Cancel()
	_, err = first.WaitForPeer(ctx)
	assert.ErrorIs(t, err, context.Canceled)
	requireHungUp(t, cancelled.message)
	requireHungUp(t, cancelled.control)

	second, _ := expectUnnamed(t, l, false)
	third, _ := expectUnnamed(t, l, false)
	closed := serve(t, second)
	require.NoError(t, l.Close())
	_, err = second.WaitForPeer(ctx)
	assert.ErrorIs(t, err, handshake.ErrClosed)
	requireHungUp(t, closed.message)
	requireHungUp(t, closed.control)
	late := serve(t, third)
	requireHungUp(t, late.message)
	requireHungUp(t, late.control)
	assert.Equal(t, handshake.Held{}, l.Held())
}
