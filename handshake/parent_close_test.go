package handshake_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestWait_EndsWithItsContext(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(testkit.Context(t))
	cancel(enough)
	for range 100 {
		peer, err := x.WaitForPeer(ctx)
		require.Nil(t, peer)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, enough)
		requirePhase(t, handshake.PhaseConnect, err)
	}
	select {
	case <-x.Done():
		require.Fail(t, "whoever gives up waiting does not end the handshake")
	default:
	}

	joinReady(t, ticket, handshake.JoinConfig{})
	<-x.Done()
	peer, err := x.WaitForPeer(ctx)
	require.NoError(t, err, "a peer that is ready wins over a context that has ended")
	require.NoError(t, peer.Abort())
}

func TestCancel_ForgetsTheChild(t *testing.T) {
	for _, stage := range []struct {
		name  string
		reach func(testing.TB, *handshake.Expected, handshake.Ticket) *transport.Channel
		phase handshake.Phase
	}{
		{"before it comes",
			func(testing.TB, *handshake.Expected, handshake.Ticket) *transport.Channel {
				return nil
			}, handshake.PhaseConnect},
		{"while it has its spec",
			func(t testing.TB, _ *handshake.Expected, ticket handshake.Ticket) *transport.Channel {
				return join(t, ticket, withControl).Channel
			}, handshake.PhaseSpec},
	} {
		t.Run(stage.name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expect(t, l, nil)
			ch := stage.reach(t, x, ticket)
			x.Cancel()
			<-x.Done()
			peer, err := x.WaitForPeer(testkit.Context(t))
			require.Nil(t, peer)
			require.ErrorIs(t, err, context.Canceled)
			requirePhase(t, stage.phase, err)
			if ch != nil {
				requireGone(t, ch)
			}
			testkit.Eventually(t, "nothing is held", func() bool {
				return l.Held() == handshake.Held{}
			})
			x.Cancel()
			requireJoinRefused(t, ticket)
		})
	}
}

func TestCancel_ClosesAPeerThatWasNotReturned(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := joinReady(t, ticket, withControl)
	<-x.Done()
	x.Cancel()
	requireGone(t, j.Channel)
	assert.Equal(t, handshake.Held{}, l.Held())
	peer, err := x.WaitForPeer(testkit.Context(t))
	require.ErrorIs(t, err, context.Canceled, "a peer that is closed is not handed out")
	require.Nil(t, peer)
}

func TestCancel_LeavesAPeerThatWasReturned(t *testing.T) {
	ctx := testkit.Context(t)
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := joinReady(t, ticket, handshake.JoinConfig{})
	peer := wait(t, x)
	received := make(chan error, 1)
	go func() { received <- peer.Channel.Recv(ctx, new(string)) }()
	x.Cancel()
	require.NoError(t, peer.Channel.Send(ctx, "still here"))
	requireReceives(t, j.Channel, "still here")
	require.NoError(t, j.Channel.Send(ctx, "so am I"))
	require.NoError(t, <-received)
	again, err := x.WaitForPeer(ctx)
	require.NoError(t, err)
	require.Same(t, peer, again)
}

func TestClose_EndsHandshakesInEveryPhase(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ctx := testkit.Context(t)
		book := newLogbook()
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: patience, Logger: book.logger()})

		taken, takenTicket := expect(t, l, nil)
		live := joinReady(t, takenTicket, handshake.JoinConfig{})
		peer := wait(t, taken)
		finished, finishedTicket := expect(t, l, nil)
		joinReady(t, finishedTicket, handshake.JoinConfig{})
		<-finished.Done()

		connected, connectedTicket := expect(t, l, nil)
		silent := dial(t, connectedTicket.Addr)
		halfway, halfwayTicket := expect(t, l, nil)
		half := say(t, halfwayTicket.Addr, captureHello(t, halfwayTicket)[:40])
		briefed, briefedTicket := expect(t, l, nil)
		orders := join(t, briefedTicket, withControl)
		never, _ := expect(t, l, nil)
		testkit.Eventually(t, "both strangers are accepted", func() bool {
			return l.Held().Pending == 2
		})

		waits := make(map[string]chan error)
		for name, x := range map[string]*handshake.Expected{"connected": connected,
			"half-way": halfway, "briefed": briefed, "not started": never} {
			failed := make(chan error, 1)
			waits[name] = failed
			go func() {
				_, err := x.WaitForPeer(ctx)
				failed <- err
			}()
		}
		require.NoError(t, l.Close())
		for name, failed := range waits {
			assert.ErrorIs(t, <-failed, handshake.ErrListenerClosed, name)
		}
		assert.Equal(t, handshake.Held{}, l.Held())
		requireGone(t, orders.Channel)
		requireDropped(t, silent)
		requireDropped(t, half)
		for _, e := range book.entries {
			assert.NotEqual(t, saysRefused, e.message,
				"that the listener closes is no refusal of anybody: %v", e.attrs)
		}

		// Close does not affect peers that are ready.
		require.NoError(t, peer.Channel.Send(ctx, "on"))
		requireReceives(t, live.Channel, "on")
		other, err := finished.WaitForPeer(ctx)
		require.NoError(t, err)
		require.NoError(t, other.Close())

		require.ErrorIs(t, l.Close(), handshake.ErrListenerClosed)
		_, err = l.Expect(handshake.Expectation{})
		require.ErrorIs(t, err, handshake.ErrListenerClosed)
		require.NoError(t, l.AcceptErr(), "a close is no trouble with accepting")
		_, err = dialAddr(ctx, takenTicket.Addr)
		require.Error(t, err)
	})
}

func TestClose_AfterAControlConnection(t *testing.T) {
	// A child assumes that its parent is dead if a control connection ends without a
	// frame. A parent must not cause this by closing only its listener.
	l := overUnix(t, handshake.ListenerConfig{HelloTimeout: patience})
	conn := dial(t, l.Addr())
	testkit.Eventually(t, "it is accepted", func() bool { return l.Held().Pending == 1 })
	require.NoError(t, l.Close())
	requireDropped(t, conn)
}

func TestClose_OfTheNetListenerIsReported(t *testing.T) {
	ln := listenTCP(t)
	l, err := handshake.Listen(ln, handshake.ListenerConfig{})
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	testkit.Eventually(t, "it is noticed", func() bool { return l.AcceptErr() != nil })
	require.ErrorIs(t, l.AcceptErr(), net.ErrClosed)
	require.Error(t, l.Close())
}

// TestClose_RacesWithCancelAndReady lets a child's ready, the parent's Cancel and
// the Listener's Close meet in many orders. In each order the wait must end, and
// both sides must agree whether there is a peer.
func TestClose_RacesWithCancelAndReady(t *testing.T) {
	for _, rivals := range []struct {
		name          string
		cancel, close bool
	}{
		{"ready and Cancel", true, false},
		{"ready and Close", false, true},
		{"ready, Cancel and Close", true, true},
	} {
		t.Run(rivals.name, func(t *testing.T) {
			overNetworks(t, func(t *testing.T, n link) {
				for round := range 150 {
					raceOnce(t, n, round, rivals.cancel, rivals.close)
				}
			})
		})
	}
}

func raceOnce(t *testing.T, n link, round int, cancel, closes bool) {
	ctx := testkit.Context(t)
	ln := n.listen(t)
	l, err := handshake.Listen(ln, handshake.ListenerConfig{})
	require.NoError(t, err)
	x, err := l.Expect(handshake.Expectation{Spec: []byte("run")})
	require.NoError(t, err)
	ticket := x.Ticket()
	x.SetPID(0)

	var all sync.WaitGroup
	childSays := make(chan error, 1)
	start := make(chan struct{})
	later := func(do func()) {
		turns := rand.IntN(2000)
		all.Go(func() {
			<-start
			for range turns { // the order differs from round to round
				_ = x.Phase()
			}
			do()
		})
	}
	conn := dial(t, ticket.Addr)
	all.Go(func() {
		<-start
		j, err := handshake.Join(ctx, conn, ticket, withControl)
		if err == nil {
			if err = j.Ready(ctx, nil); err == nil {
				err = j.Channel.Recv(ctx, new(string))
			}
			j.Channel.Abort()
		}
		childSays <- err
	})
	if cancel {
		later(x.Cancel)
	}
	if closes {
		later(func() { assert.NoError(t, l.Close()) })
	}
	close(start)

	peer, err := x.WaitForPeer(ctx)
	if err == nil {
		assert.NoError(t, peer.Channel.Send(ctx, "welcome"),
			"round %d: a peer that was handed out lives", round)
		assert.NoError(t, <-childSays, "round %d", round)
		peer.Abort()
	} else {
		assert.Nil(t, peer)
		ours := cancel && errors.Is(err, context.Canceled) || closes &&
			errors.Is(err, handshake.ErrListenerClosed)
		assert.True(t, ours, "round %d: %v", round, err)
		assert.Error(t, <-childSays,
			"round %d: the child does not believe that it is a peer", round)
	}
	all.Wait()
	x.Cancel()
	l.Close()
	assert.Equal(t, handshake.Held{}, l.Held())
	require.False(t, t.Failed(), fmt.Sprintf("round %d", round))
}

// TestSetPID_RacesWithTheEndOfTheWait calls SetPID and Cancel at the same time.
func TestSetPID_RacesWithTheEndOfTheWait(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	for round := range 3000 {
		x, err := l.Expect(handshake.Expectation{})
		require.NoError(t, err)
		var both sync.WaitGroup
		both.Go(func() { x.SetPID(1 + round) })
		both.Go(x.Cancel)
		both.Wait()
		require.Equal(t, handshake.Held{}, l.Held(), "round %d", round)
	}
	x, _ := expect(t, l, nil)
	x.SetPID(5)
	x.SetPID(6)
	assert.Equal(t, 1, l.Held().ByPID)
	x.Cancel()
	assert.Equal(t, handshake.Held{}, l.Held())
}
