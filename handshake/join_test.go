package handshake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
)

func TestAChildJoinsItsParent(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		ctx := testContext(t)
		l := listen(t, n, handshake.ListenerConfig{Identity: handshake.Identity{ID: "parent-1", Name: "boss"}})
		x, ticket := expect(t, l, []byte("the orders"))
		assert.Equal(t, handshake.PhaseConnect, x.Phase())

		j := join(t, ticket, handshake.JoinConfig{Name: "worker"})
		assert.Equal(t, "the orders", string(j.Spec))
		assert.Equal(t, handshake.Identity{ID: "parent-1", Name: "boss", PID: os.Getpid()}, j.Parent)
		assert.Equal(t, l.Identity(), j.Parent)
		assert.EqualValues(t, handshake.ProtocolVersion, j.Version)
		assert.False(t, j.Control())
		assert.Equal(t, handshake.PhaseSpec, x.Phase())

		times := handshake.Timings{Init: 1, Main: 20, Connected: 300, Accepted: 1 << 40}
		require.NoError(t, j.Ready(ctx, times))
		peer := wait(t, x)
		assert.Equal(t, handshake.Identity{ID: ticket.ID, Name: "worker", PID: os.Getpid()}, peer.Identity)
		assert.EqualValues(t, handshake.ProtocolVersion, peer.Version)
		assert.Equal(t, times, peer.Timings)
		assert.Equal(t, handshake.PhaseReady, x.Phase())
		assert.NoError(t, x.Refused())
		again, err := x.WaitForPeer(ctx)
		require.NoError(t, err)
		assert.Same(t, peer, again)

		require.NoError(t, peer.Channel.Send(ctx, "ping"))
		requireReceives(t, j.Channel, "ping")
		require.NoError(t, j.Channel.Send(ctx, "pong"))
		requireReceives(t, peer.Channel, "pong")

		require.NoError(t, peer.Close())
		var bye *transport.GoodbyeError
		require.ErrorAs(t, j.Channel.Recv(ctx, new(any)), &bye)
		assert.Equal(t, handshake.Held{}, l.Held())
	})
}

func TestALargeSpecArrivesIntact(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		l := listen(t, n, handshake.ListenerConfig{})
		for _, size := range []int{0, 1, handshake.PreAuthLimit - 1, handshake.PreAuthLimit, 3 << 20} {
			spec := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
			x, ticket := expect(t, l, spec)
			j := joinReady(t, ticket, handshake.JoinConfig{})
			require.True(t, bytes.Equal(spec, j.Spec), "a spec of %d bytes", size)
			wait(t, x)
		}
	})
}

func TestASpecOverTheLimitIsAnErrorThatNamesBothNumbers(t *testing.T) {
	t.Run("of the parent", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{Limit: 1000})
		x, ticket := expect(t, l, make([]byte, 1000))
		_, err := handshake.Join(testContext(t), dial(t, ticket.Addr), ticket, handshake.JoinConfig{})
		require.ErrorIs(t, err, transport.ErrPeerGone)
		_, err = x.WaitForPeer(testContext(t))
		var size *transport.SizeError
		require.ErrorAs(t, err, &size)
		assert.EqualValues(t, 1000, size.Limit)
		assert.Greater(t, size.Size, int64(1000))
		requirePhase(t, handshake.PhaseSpec, err)
	})
	t.Run("of the child", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, make([]byte, 1000))
		_, err := handshake.Join(testContext(t), dial(t, ticket.Addr), ticket, handshake.JoinConfig{Limit: 1000})
		var size *transport.SizeError
		require.ErrorAs(t, err, &size)
		requirePhase(t, handshake.PhaseSpec, err)
		_, err = x.WaitForPeer(testContext(t))
		require.ErrorIs(t, err, transport.ErrPeerGone)
	})
}

func requirePhase(t testing.TB, want handshake.Phase, err error) {
	t.Helper()
	var herr *handshake.Error
	require.ErrorAs(t, err, &herr)
	require.Equal(t, want, herr.Phase)
}

func TestMessagesRightBehindReadyArrive(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		ctx := testContext(t)
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, handshake.JoinConfig{})
		for i := range 100 {
			require.NoError(t, j.Channel.Send(ctx, fmt.Sprint(i)))
		}
		require.NoError(t, j.Channel.CloseWith(ctx, 3, "done"))
		peer := wait(t, x)
		for i := range 100 {
			requireReceives(t, peer.Channel, fmt.Sprint(i))
		}
		var bye *transport.GoodbyeError
		require.ErrorAs(t, peer.Channel.Recv(ctx, new(any)), &bye)
		assert.Equal(t, 3, bye.Status)
	})
}

func TestReadyInOneWriteWithItsMessagesIsUnderstood(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	conn := dial(t, ticket.Addr)
	_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
	require.NoError(t, err)
	requireFrame(t, conn, transport.KindWelcome)
	requireFrame(t, conn, transport.KindSpec)
	both := append(frame(transport.KindReady, encoded(t, fields{"timings": fields{}})), frame(transport.KindMessage, encoded(t, "first"))...)
	_, err = conn.Write(both)
	require.NoError(t, err)
	requireReceives(t, wait(t, x).Channel, "first")
}

func TestPhaseAndSinceProgress(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	before := time.Now()
	x, ticket := expect(t, l, nil)
	x.SetPID(os.Getpid()) // the child is this process
	assert.Equal(t, []handshake.Phase{handshake.PhaseConnect}, phases(x))

	conn := dial(t, ticket.Addr)
	eventually(t, func() bool { return x.Phase() != handshake.PhaseConnect }, "the kernel tells who connected")
	assert.Equal(t, []handshake.Phase{handshake.PhaseConnect, handshake.PhaseHello}, phases(x))

	j, err := handshake.Join(testContext(t), conn, ticket, handshake.JoinConfig{})
	require.NoError(t, err)
	assert.Equal(t, handshake.PhaseSpec, x.Phase())
	dial(t, ticket.Addr) // one more connection of the same process is no step back
	requireJoinsAnother(t, l)
	assert.Equal(t, handshake.PhaseSpec, x.Phase())

	require.NoError(t, j.Ready(testContext(t), handshake.Timings{}))
	wait(t, x)
	order := []handshake.Phase{handshake.PhaseConnect, handshake.PhaseHello, handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady}
	assert.Equal(t, order, phases(x))
	last := before
	for _, p := range order {
		at := x.Since()[p]
		assert.False(t, at.Before(last), "%s began before the phase in front of it", p)
		last = at
	}
	x.Since()[handshake.PhaseReady] = time.Time{}
	assert.False(t, x.Since()[handshake.PhaseReady].IsZero(), "what Since returns is the caller's")
	require.NoError(t, j.Channel.Abort())
}

// phases are those that a child has come to, in their order.
func phases(x *handshake.Expected) (list []handshake.Phase) {
	since := x.Since()
	for _, p := range []handshake.Phase{handshake.PhaseStart, handshake.PhaseConnect, handshake.PhaseHello, handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady} {
		if _, ok := since[p]; ok {
			list = append(list, p)
		}
	}
	return list
}

// requireJoinsAnother checks that one more child can join.
func requireJoinsAnother(t testing.TB, l *handshake.Listener) {
	t.Helper()
	x, ticket := expect(t, l, nil)
	requireJoins(t, x, ticket)
}

func TestVersions(t *testing.T) {
	r := func(min, max uint) handshake.Range { return handshake.Range{Min: min, Max: max} }
	overNetworks(t, func(t *testing.T, n network) {
		for _, test := range []struct {
			name          string
			parent, child handshake.Range
			want          uint
		}{
			{"the same", r(1, 1), r(1, 1), 1},
			{"the highest of both", r(1, 7), r(2, 9), 7},
			{"the child's highest", r(1, 9), r(2, 4), 4},
			{"touching at one", r(5, 9), r(2, 5), 5},
			{"up to the largest number", r(1, ^uint(0)), r(1, ^uint(0)), ^uint(0)},
		} {
			t.Run(test.name, func(t *testing.T) {
				l := listen(t, n, handshake.ListenerConfig{Versions: test.parent})
				x, ticket := expect(t, l, nil)
				j := joinReady(t, ticket, handshake.JoinConfig{Versions: test.child})
				assert.Equal(t, test.want, j.Version)
				assert.Equal(t, test.want, wait(t, x).Version)
			})
		}
		for _, test := range []struct {
			name          string
			parent, child handshake.Range
		}{
			{"the parent is older", r(1, 2), r(3, 4)},
			{"the parent is newer", r(3, 4), r(1, 2)},
		} {
			t.Run("none in common, as "+test.name, func(t *testing.T) {
				l := listen(t, n, handshake.ListenerConfig{Versions: test.parent})
				x, ticket := expect(t, l, nil)
				_, err := handshake.Join(testContext(t), dial(t, ticket.Addr), ticket, handshake.JoinConfig{Versions: test.child})
				requireVersionError(t, err, test.child, test.parent)
				_, err = x.WaitForPeer(testContext(t))
				requireVersionError(t, err, test.parent, test.child)
				requirePhase(t, handshake.PhaseAuth, err)
			})
		}
	})
	t.Run("a range that is none is an error that names the field", func(t *testing.T) {
		for _, bad := range []handshake.Range{r(0, 1), r(2, 1), r(1, 0)} {
			ln := listenTCP(t)
			defer ln.Close()
			_, err := handshake.Listen(ln, handshake.ListenerConfig{Versions: bad})
			require.ErrorContains(t, err, "ListenerConfig.Versions")
			a, _ := net.Pipe()
			_, err = handshake.Join(testContext(t), a, handshake.Ticket{ID: "x", Secret: handshake.NewSecret()}, handshake.JoinConfig{Versions: bad})
			require.ErrorContains(t, err, "JoinConfig.Versions")
			requireClosed(t, a)
		}
	})
}

func requireVersionError(t testing.TB, err error, ours, theirs handshake.Range) {
	t.Helper()
	var ver *handshake.VersionError
	require.ErrorAs(t, err, &ver)
	assert.Equal(t, handshake.VersionError{Ours: ours, Theirs: theirs}, *ver)
	assert.ErrorContains(t, err, fmt.Sprintf("%d to %d", ours.Min, ours.Max))
	assert.ErrorContains(t, err, fmt.Sprintf("%d to %d", theirs.Min, theirs.Max))
}

func requireClosed(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Write([]byte{0})
	require.Error(t, err)
}

func TestListenerConfigErrorsNameTheField(t *testing.T) {
	ln := listenTCP(t)
	defer ln.Close()
	for want, cfg := range map[string]handshake.ListenerConfig{
		"ListenerConfig.HelloTimeout: -1ns is negative": {HelloTimeout: -1},
		"ListenerConfig.MaxPending: -1 is negative":     {MaxPending: -1},
		"ListenerConfig.Identity: an id with":           {Identity: handshake.Identity{ID: "two words"}},
		"ListenerConfig.Identity: pid -7":               {Identity: handshake.Identity{PID: -7}},
	} {
		_, err := handshake.Listen(ln, cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestExpectationErrorsNameTheField(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	for _, id := range []string{"", strings.Repeat("x", 65), "a b", "é", "tab\t"} {
		_, err := l.Expect(handshake.Expectation{ID: id, Secret: handshake.NewSecret()})
		require.ErrorContains(t, err, "Expectation.ID")
	}
	x, ticket := expect(t, l, nil)
	_, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: handshake.NewSecret()})
	require.ErrorContains(t, err, ticket.ID)
	requireJoins(t, x, ticket)
}

func TestAChildsOwnWordsReachItsParent(t *testing.T) {
	for _, test := range []struct {
		name string
		said handshake.FailedError
		want handshake.FailedError
		is   error
	}{
		{
			name: "an entry that it does not have",
			said: handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeUnknownEntry, Text: `no entry "upper"`},
			want: handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeUnknownEntry, Text: `no entry "upper"`},
			is:   handshake.ErrUnknownEntry,
		},
		{
			name: "a spec that it cannot read",
			said: handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeBadSpec, Text: "spec: depth: -1"},
			want: handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeBadSpec, Text: "spec: depth: -1"},
			is:   handshake.ErrBadSpec,
		},
		{
			name: "a refusal",
			said: handshake.FailedError{Phase: handshake.PhaseAuth, Code: handshake.CodeRefused},
			want: handshake.FailedError{Phase: handshake.PhaseAuth, Code: handshake.CodeRefused},
			is:   handshake.ErrRefused,
		},
		{
			name: "a preparation that failed",
			said: handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "port 80 is taken"},
			want: handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "port 80 is taken"},
		},
		{
			name: "an unknown code and phase",
			said: handshake.FailedError{Phase: "lunch", Code: strings.Repeat("nobody knows ", 100), Text: "why"},
			want: handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeError, Text: "why"},
		},
		{
			name: "nothing at all",
			want: handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeError},
		},
		{
			name: "words that are not UTF-8",
			said: handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "open caf\xe9: no such file"},
			want: handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "open caf\uFFFD: no such file"},
		},
		{
			name: "long words, cut at a character's boundary",
			said: handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "a" + strings.Repeat("€", 3000)},
			want: handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "a" + strings.Repeat("€", 4095/3)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expect(t, l, nil)
			j := join(t, ticket, handshake.JoinConfig{})
			require.NoError(t, j.Fail(testContext(t), test.said))
			_, err := x.WaitForPeer(testContext(t))
			var said *handshake.FailedError
			require.ErrorAs(t, err, &said)
			assert.Equal(t, test.want, *said)
			requirePhase(t, test.want.Phase, err)
			assert.True(t, utf8.ValidString(err.Error()))
			for _, sentinel := range []error{handshake.ErrUnknownEntry, handshake.ErrBadSpec, handshake.ErrRefused} {
				assert.Equal(t, sentinel == test.is, errors.Is(err, sentinel), "%v", sentinel)
			}
			if test.want.Text != "" {
				assert.ErrorContains(t, err, test.want.Text)
			} else {
				assert.ErrorContains(t, err, test.want.Code)
			}
		})
	}
}

func TestALongLastWordOfAStrangeChildIsCutByTheParent(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := join(t, ticket, handshake.JoinConfig{})
	body := encoded(t, fields{"phase": "spec", "code": "error", "error": strings.Repeat("€", 1<<20)})
	require.NoError(t, j.Channel.WriteFrames(testContext(t), transport.Frame{Kind: transport.KindFailed, Body: body}))
	_, err := x.WaitForPeer(testContext(t))
	var said *handshake.FailedError
	require.ErrorAs(t, err, &said)
	assert.Equal(t, strings.Repeat("€", 4096/3), said.Text)
}

func TestAChildThatDoesNotAnswerAsItShouldFailsTheWait(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(testing.TB, *handshake.Joined)
		want error
		text string
	}{
		{"it dies", func(t testing.TB, j *handshake.Joined) { j.Channel.Abort() }, transport.ErrPeerGone, ""},
		{"it says goodbye", func(t testing.TB, j *handshake.Joined) { j.Channel.Close() }, transport.ErrProtocol, "goodbye"},
		{"it sends a message before ready", func(t testing.TB, j *handshake.Joined) { j.Channel.Send(testContext(t), 1) }, transport.ErrProtocol, "message"},
		{"its ready is not CBOR", func(t testing.TB, j *handshake.Joined) {
			j.Channel.WriteFrames(testContext(t), transport.Frame{Kind: transport.KindReady, Body: []byte{0xff}})
		}, transport.ErrProtocol, "ready"},
		{"its ready has a moment that is text", func(t testing.TB, j *handshake.Joined) {
			j.Channel.WriteFrames(testContext(t), transport.Frame{Kind: transport.KindReady, Body: encoded(t, fields{"timings": fields{"init": "now"}})})
		}, transport.ErrProtocol, "ready"},
	} {
		t.Run(test.name, func(t *testing.T) {
			book := newLogbook()
			l := overUnix(t, handshake.ListenerConfig{Logger: book.logger()})
			x, ticket := expect(t, l, nil)
			j := join(t, ticket, handshake.JoinConfig{})
			test.do(t, j)
			peer, err := x.WaitForPeer(testContext(t))
			require.ErrorIs(t, err, test.want)
			require.ErrorContains(t, err, test.text)
			require.Nil(t, peer)
			requirePhase(t, handshake.PhaseSpec, err)
			e := book.with(t, 1, saysFailed)[0]
			assert.Equal(t, ticket.ID, e.attrs["id"])
			requireJoinsAnother(t, l)
		})
	}
}

func TestNamesThatAreTooLongOrNotTextAreMadeFit(t *testing.T) {
	for _, test := range []struct{ name, long, want string }{
		{"cut at a character's boundary", strings.Repeat("€", 100), strings.Repeat("€", 85)},
		{"not UTF-8", "caf\xe9", "caf\uFFFD"},
		{"a long one that is not UTF-8", strings.Repeat("\xe9x", 300), strings.Repeat("\uFFFDx", 64)},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{Identity: handshake.Identity{Name: test.long}})
			x, ticket := expect(t, l, nil)
			j := joinReady(t, ticket, handshake.JoinConfig{Name: test.long})
			assert.Equal(t, test.want, j.Parent.Name)
			assert.Equal(t, test.want, wait(t, x).Name)
		})
	}
}

func TestManyChildrenOfTheSameNameJoinAtOnce(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		const children = 64
		ctx := testContext(t)
		l := listen(t, n, handshake.ListenerConfig{})
		var wg sync.WaitGroup
		for i := range children {
			x, ticket := expect(t, l, fmt.Appendf(nil, "orders %d", i))
			wg.Go(func() { // the child
				conn, err := dialAddr(ctx, ticket.Addr)
				if !assert.NoError(t, err) {
					return
				}
				j, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{Name: "twin"})
				if !assert.NoError(t, err) {
					return
				}
				defer j.Channel.Close()
				assert.Equal(t, fmt.Sprintf("orders %d", i), string(j.Spec))
				assert.NoError(t, j.Ready(ctx, handshake.Timings{}))
				assert.NoError(t, j.Channel.Send(ctx, i))
				var bye *transport.GoodbyeError
				assert.ErrorAs(t, j.Channel.Recv(ctx, new(any)), &bye)
			})
			wg.Go(func() { // whoever waits for it
				peer, err := x.WaitForPeer(ctx)
				if !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, "twin", peer.Name)
				assert.Equal(t, ticket.ID, peer.ID)
				var got int
				assert.NoError(t, peer.Channel.Recv(ctx, &got))
				assert.Equal(t, i, got)
				assert.NoError(t, peer.Close())
			})
		}
		wg.Wait()
		assert.Equal(t, handshake.Held{}, l.Held())
	})
}

func TestJoinEndsWithItsContext(t *testing.T) {
	ours, theirs := networks[0].ends(t)
	ctx, cancel := context.WithCancelCause(testContext(t))
	enough := errors.New("enough")
	go func() {
		readFrame(theirs) // the hello; no answer comes
		cancel(enough)
	}()
	_, err := handshake.Join(ctx, ours, handshake.Ticket{ID: "x", Secret: handshake.NewSecret()}, handshake.JoinConfig{})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, enough)
	requirePhase(t, handshake.PhaseAuth, err)
	requireClosed(t, ours)
}

func TestMeanwhileRunsBetweenHelloAndWelcome(t *testing.T) {
	ours, theirs := networks[0].ends(t)
	ticket := handshake.Ticket{ID: "x", Secret: handshake.NewSecret()}
	runs := 0
	_, err := handshake.Join(testContext(t), ours, ticket, handshake.JoinConfig{Meanwhile: func() {
		runs++
		requireFrame(t, theirs, transport.KindHello)
		require.NoError(t, theirs.Close())
	}})
	require.ErrorIs(t, err, transport.ErrPeerGone)
	assert.Equal(t, 1, runs)
}

func TestJoinRefusesATicketThatProvesNothing(t *testing.T) {
	for field, ticket := range map[string]handshake.Ticket{
		"Ticket.Secret": {ID: "x"},
		"Ticket.ID":     {Secret: handshake.NewSecret()},
	} {
		a, _ := net.Pipe()
		_, err := handshake.Join(testContext(t), a, ticket, handshake.JoinConfig{})
		require.ErrorContains(t, err, field)
		requireClosed(t, a)
	}
}
