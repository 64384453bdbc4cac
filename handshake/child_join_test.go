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
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestJoin_ChildGetsItsSpecAndAChannel(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ctx := testkit.Context(t)
		l := listen(t, n,
			handshake.ListenerConfig{Identity: handshake.Identity{ID: "parent-1", Name: "boss"}})
		x, ticket := expect(t, l, []byte("the spec"))
		assert.Equal(t, handshake.PhaseConnect, x.Phase())

		times := access.Timings{Init: 1, Main: 20, Connected: 300, Accepted: 1 << 40}
		j := join(t, ticket,
			handshake.JoinConfig{Name: "worker", Internal: access.JoinOptions{Timings: &times}})
		assert.Equal(t, "the spec", string(j.Spec))
		assert.Equal(t, handshake.Identity{ID: "parent-1", Name: "boss", PID: os.Getpid()},
			j.Parent)
		assert.Equal(t, l.Identity(), j.Parent)
		assert.False(t, j.Control())
		assert.Equal(t, handshake.PhaseSpec, x.Phase())

		require.NoError(t, j.Ready(ctx, nil))
		peer := wait(t, x)
		assert.Equal(t, handshake.Identity{ID: ticket.ID, Name: "worker", PID: os.Getpid()},
			peer.Identity)
		assert.Equal(t, times, x.Internal(access.Key{}).Timings())
		assert.Equal(t, handshake.PhaseReady, x.Phase())
		assert.NoError(t, x.Internal(access.Key{}).Refused())
		again, err := x.WaitForPeer(ctx)
		require.NoError(t, err)
		assert.Same(t, peer, again)

		require.NoError(t, peer.Channel.Send(ctx, "ping"))
		requireReceives(t, j.Channel, "ping")
		require.NoError(t, j.Channel.Send(ctx, "pong"))
		requireReceives(t, peer.Channel, "pong")

		leave(t, peer, j.Channel)
		assert.Equal(t, handshake.Held{}, l.Held())
	})
}

func TestSpec_OfAnySizeArrivesIntact(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		for _, size := range []int{0, 1, access.PreAuthLimit - 1, access.PreAuthLimit, 3 << 20} {
			spec := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
			x, ticket := expect(t, l, spec)
			j := joinReady(t, ticket, handshake.JoinConfig{})
			require.True(t, bytes.Equal(spec, j.Spec), "a spec of %d bytes", size)
			wait(t, x)
		}
	})
}

func TestSpec_AboveMaxFrameSizeIsRefused(t *testing.T) {
	t.Run("by the parent", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{MaxFrameSize: 1000})
		x, ticket := expect(t, l, make([]byte, 1000))
		_, err := handshake.Join(testkit.Context(t), dial(t, ticket.Addr),
			ticket, handshake.JoinConfig{})
		require.ErrorIs(t, err, transport.ErrPeerGone)
		_, err = x.WaitForPeer(testkit.Context(t))
		var size *transport.SizeError
		require.ErrorAs(t, err, &size)
		assert.EqualValues(t, 1000, size.Limit)
		assert.Greater(t, size.Size, int64(1000))
		requirePhase(t, handshake.PhaseSpec, err)
	})
	t.Run("by the child", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, make([]byte, 1000))
		_, err := handshake.Join(testkit.Context(t), dial(t, ticket.Addr), ticket,
			handshake.JoinConfig{MaxFrameSize: 1000})
		var size *transport.SizeError
		require.ErrorAs(t, err, &size)
		requirePhase(t, handshake.PhaseSpec, err)
		_, err = x.WaitForPeer(testkit.Context(t))
		require.ErrorIs(t, err, transport.ErrPeerGone)
	})
}

func requirePhase(t testing.TB, want handshake.Phase, err error) {
	t.Helper()
	var herr *handshake.Error
	require.ErrorAs(t, err, &herr)
	require.Equal(t, want, herr.Phase)
}

func TestReady_MessagesRightAfterItArrive(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ctx := testkit.Context(t)
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

func TestReady_InOneWriteWithMessages(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	conn := dial(t, ticket.Addr)
	_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
	require.NoError(t, err)
	requireFrame(t, conn, frame.KindWelcome)
	requireFrame(t, conn, frame.KindSpec)
	both := append(frameOf(frame.KindReady, encoded(t, fields{"timings": fields{}})),
		frameOf(frame.KindMessage, encoded(t, "first"))...)
	_, err = conn.Write(both)
	require.NoError(t, err)
	requireReceives(t, wait(t, x).Channel, "first")
}

func TestPhase_Progresses(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	before := time.Now()
	x, ticket := expect(t, l, nil)
	x.SetPID(os.Getpid()) // the child is this process
	assert.Equal(t, []handshake.Phase{handshake.PhaseConnect}, phases(x))

	conn := dial(t, ticket.Addr)
	testkit.Eventually(t, "the kernel reports the process that connected", func() bool {
		return x.Phase() != handshake.PhaseConnect
	})
	assert.Equal(t, []handshake.Phase{handshake.PhaseConnect, handshake.PhaseHello}, phases(x))

	j, err := handshake.Join(testkit.Context(t), conn, ticket, handshake.JoinConfig{})
	require.NoError(t, err)
	assert.Equal(t, handshake.PhaseSpec, x.Phase())
	dial(t, ticket.Addr) // a second connection of the process changes no phase
	requireJoinsAnother(t, l)
	assert.Equal(t, handshake.PhaseSpec, x.Phase())

	require.NoError(t, j.Ready(testkit.Context(t), nil))
	wait(t, x)
	order := []handshake.Phase{handshake.PhaseConnect, handshake.PhaseHello, handshake.PhaseAuth,
		handshake.PhaseSpec, handshake.PhaseReady}
	assert.Equal(t, order, phases(x))
	last := before
	for _, p := range order {
		at := x.Internal(access.Key{}).Since()[p]
		assert.False(t, at.Before(last), "%s began before the phase before it", p)
		last = at
	}
	x.Internal(access.Key{}).Since()[handshake.PhaseReady] = time.Time{}
	assert.False(t, x.Internal(access.Key{}).Since()[handshake.PhaseReady].IsZero(),
		"the map is a copy")
	require.NoError(t, j.Channel.Abort())
}

// phases returns the phases reached by a child, in order.
func phases(x *handshake.Expected) (list []handshake.Phase) {
	since := x.Internal(access.Key{}).Since()
	for _, p := range []handshake.Phase{handshake.PhaseStart, handshake.PhaseConnect,
		handshake.PhaseHello, handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady} {
		if _, ok := since[p]; ok {
			list = append(list, p)
		}
	}
	return list
}

// requireJoinsAnother checks that another child can join.
func requireJoinsAnother(t testing.TB, l *handshake.Listener) {
	t.Helper()
	x, ticket := expect(t, l, nil)
	requireJoins(t, x, ticket)
}

func TestVersion_HighestCommonOneIsChosen(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		for _, test := range []struct {
			name          string
			parent, child [2]uint
		}{
			{"the same", [2]uint{1, 1}, [2]uint{1, 1}},
			{"the parent's highest", [2]uint{1, 7}, [2]uint{2, 9}},
			{"the child's highest", [2]uint{1, 9}, [2]uint{2, 4}},
			{"touching at one", [2]uint{5, 9}, [2]uint{2, 5}},
			{"up to the largest number", [2]uint{1, ^uint(0)}, [2]uint{1, ^uint(0)}},
		} {
			t.Run(test.name, func(t *testing.T) {
				var cfg handshake.ListenerConfig
				cfg.SetVersions(test.parent[0], test.parent[1])
				l := listen(t, n, cfg)
				x, ticket := expect(t, l, nil)
				joinReady(t, ticket, ofVersions(test.child))
				wait(t, x)
			})
		}
		for name, test := range map[string]struct{ parent, child [2]uint }{
			"the parent is older": {[2]uint{1, 2}, [2]uint{3, 4}},
			"the parent is newer": {[2]uint{3, 4}, [2]uint{1, 2}},
		} {
			t.Run("none, because "+name, func(t *testing.T) {
				var cfg handshake.ListenerConfig
				cfg.SetVersions(test.parent[0], test.parent[1])
				l := listen(t, n, cfg)
				x, ticket := expect(t, l, nil)
				_, err := handshake.Join(testkit.Context(t), dial(t, ticket.Addr),
					ticket, ofVersions(test.child))
				requireVersionError(t, err, test.child, test.parent)
				_, err = x.WaitForPeer(testkit.Context(t))
				requireVersionError(t, err, test.parent, test.child)
				requirePhase(t, handshake.PhaseAuth, err)
			})
		}
	})
}

func ofVersions(versions [2]uint) handshake.JoinConfig {
	return handshake.JoinConfig{Internal: access.JoinOptions{Versions: versions}}
}

func requireVersionError(t testing.TB, err error, ours, theirs [2]uint) {
	t.Helper()
	var version *handshake.VersionError
	require.ErrorAs(t, err, &version)
	assert.Equal(t, handshake.VersionError{Ours: ours, Theirs: theirs}, *version)
	assert.ErrorContains(t, err, fmt.Sprintf("%d to %d", ours[0], ours[1]))
	assert.ErrorContains(t, err, fmt.Sprintf("%d to %d", theirs[0], theirs[1]))
}

func requireClosed(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Write([]byte{0})
	require.Error(t, err)
}

func TestListen_ErrorNamesTheField(t *testing.T) {
	ln := listenTCP(t)
	defer ln.Close()
	for want, cfg := range map[string]handshake.ListenerConfig{
		"ListenerConfig.HelloTimeout: -1ns is negative": {HelloTimeout: -1},
		"ListenerConfig.MaxPending: -1 is negative":     {MaxPending: -1},
		"ListenerConfig.Identity: an id with": {
			Identity: handshake.Identity{ID: "two words"}},
		"ListenerConfig.Identity: pid -7": {Identity: handshake.Identity{PID: -7}},
	} {
		_, err := handshake.Listen(ln, cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestFail_ReasonReachesTheParent(t *testing.T) {
	for name, test := range map[string]struct {
		phase  handshake.Phase
		reason error
		text   string // "" means that of reason
		code   string
		is     error
	}{
		"an unknown entry": {
			phase:  handshake.PhaseSpec,
			reason: fmt.Errorf("%w %q", handshake.ErrUnknownEntry, "upper"),
			code:   "unknown-entry", is: handshake.ErrUnknownEntry,
		},
		"a bad spec": {
			phase: handshake.PhaseSpec, reason: errors.New("spec: depth: -1"), code: "bad-spec",
			is: handshake.ErrBadSpec,
		},
		"a failed preparation": {
			phase: handshake.PhaseReady, reason: errors.New("port 80 is taken"), code: "error",
		},
		"text that is not UTF-8": {
			phase: handshake.PhaseReady, reason: errors.New("open caf\xe9: no such file"),
			text: "open caf\uFFFD: no such file", code: "error",
		},
		"a long text, cut between two characters": {
			phase: handshake.PhaseReady, reason: errors.New("a" + strings.Repeat("€", 3000)),
			text: "a" + strings.Repeat("€", 4095/3), code: "error",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expect(t, l, nil)
			j := join(t, ticket, handshake.JoinConfig{})
			require.NoError(t, j.Fail(testkit.Context(t), test.phase, test.reason))
			if test.text == "" {
				test.text = test.reason.Error()
			}
			requireFailed(t, x, test.phase, test.code, test.text, test.is)
		})
	}
}

// requireFailed checks how the parent reports a failed frame.
func requireFailed(
	t testing.TB, x *handshake.Expected, phase handshake.Phase, code, text string, is error,
) {
	t.Helper()
	_, err := x.WaitForPeer(testkit.Context(t))
	var failed *handshake.FailedError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, phase, failed.Phase)
	assert.Equal(t, code, failed.Code())
	assert.Equal(t, text, failed.Text)
	requirePhase(t, phase, err)
	assert.True(t, utf8.ValidString(err.Error()))
	for _, sentinel := range []error{handshake.ErrUnknownEntry,
		handshake.ErrBadSpec, handshake.ErrRefused} {
		assert.Equal(t, sentinel == is, errors.Is(err, sentinel), "%v", sentinel)
	}
	if text != "" {
		assert.ErrorContains(t, err, text)
	} else {
		assert.ErrorContains(t, err, code)
	}
}

// Children in other languages may send other failed frames than Fail.
func TestFail_FrameOfAnotherLibrary(t *testing.T) {
	for name, test := range map[string]struct {
		sent       fields
		phase      handshake.Phase
		code, text string
		is         error
	}{
		"a refusal": {fields{"phase": "auth", "code": "refused", "error": ""}, handshake.PhaseAuth,
			"refused", "", handshake.ErrRefused},
		"an unknown code and phase": {
			fields{"phase": "lunch", "code": strings.Repeat("unknown ", 100), "error": "why"},
			handshake.PhaseSpec, "error", "why", nil,
		},
		"a text that is too long": {
			fields{"phase": "spec", "code": "error", "error": strings.Repeat("€", 1<<20)},
			handshake.PhaseSpec, "error", strings.Repeat("€", 4096/3), nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expect(t, l, nil)
			j := join(t, ticket, handshake.JoinConfig{})
			sendFrame(t, j.Channel, frame.KindFailed, encoded(t, test.sent))
			requireFailed(t, x, test.phase, test.code, test.text, test.is)
		})
	}
}

func sendFrame(t testing.TB, ch *transport.Channel, kind frame.Kind, body []byte) {
	t.Helper()
	require.NoError(t,
		ch.Frames(access.Key{}).Write(testkit.Context(t), frame.Frame{Kind: kind, Body: body}))
}

func TestReady_WrongAnswerEndsTheWait(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(testing.TB, *handshake.Joined)
		want error
		text string
	}{
		{"it dies", func(t testing.TB, j *handshake.Joined) {
			j.Channel.Abort()
		}, transport.ErrPeerGone, ""},
		{"it sends a goodbye", func(t testing.TB, j *handshake.Joined) {
			j.Channel.Close()
		}, transport.ErrProtocol, "goodbye"},
		{"it sends a message before ready", func(t testing.TB, j *handshake.Joined) {
			j.Channel.Send(testkit.Context(t), 1)
		}, transport.ErrProtocol, "message"},
		{"its ready is not CBOR", func(t testing.TB, j *handshake.Joined) {
			sendFrame(t, j.Channel, frame.KindReady, []byte{0xff})
		}, transport.ErrProtocol, "ready"},
		{"its ready has a moment that is text", func(t testing.TB, j *handshake.Joined) {
			sendFrame(t, j.Channel, frame.KindReady,
				encoded(t, fields{"timings": fields{"init": "now"}}))
		}, transport.ErrProtocol, "ready"},
	} {
		t.Run(test.name, func(t *testing.T) {
			book := newLogbook()
			l := overUnix(t, handshake.ListenerConfig{Logger: book.logger()})
			x, ticket := expect(t, l, nil)
			j := join(t, ticket, handshake.JoinConfig{})
			test.do(t, j)
			peer, err := x.WaitForPeer(testkit.Context(t))
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

func TestName_IsCutAndMadeUTF8(t *testing.T) {
	for _, test := range []struct{ name, long, want string }{
		{"cut between two characters", strings.Repeat("€", 100), strings.Repeat("€", 85)},
		{"not UTF-8", "caf\xe9", "caf\uFFFD"},
		{"a long one that is not UTF-8", strings.Repeat("\xe9x", 300),
			strings.Repeat("\uFFFDx", 64)},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := overUnix(t,
				handshake.ListenerConfig{Identity: handshake.Identity{Name: test.long}})
			x, ticket := expect(t, l, nil)
			j := joinReady(t, ticket, handshake.JoinConfig{Name: test.long})
			assert.Equal(t, test.want, j.Parent.Name)
			assert.Equal(t, test.want, wait(t, x).Name)
		})
	}
}

func TestJoin_ManyChildrenOfOneName(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		const children = 64
		ctx := testkit.Context(t)
		l := listen(t, n, handshake.ListenerConfig{})
		var wg sync.WaitGroup
		for i := range children {
			x, ticket := expect(t, l, fmt.Appendf(nil, "spec %d", i))
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
				assert.Equal(t, fmt.Sprintf("spec %d", i), string(j.Spec))
				assert.NoError(t, j.Ready(ctx, nil))
				assert.NoError(t, j.Channel.Send(ctx, i))
				var bye *transport.GoodbyeError
				assert.ErrorAs(t, j.Channel.Recv(ctx, new(any)), &bye)
			})
			wg.Go(func() { // the parent
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

func TestJoin_EndsWithItsContext(t *testing.T) {
	ours, theirs := networks[0].ends(t)
	ctx, cancel := context.WithCancelCause(testkit.Context(t))
	enough := errors.New("enough")
	go func() {
		readFrame(theirs) // the hello; no answer comes
		cancel(enough)
	}()
	_, err := handshake.Join(ctx, ours,
		handshake.NewTicket(transport.Addr{}, "x"), handshake.JoinConfig{})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, enough)
	requirePhase(t, handshake.PhaseAuth, err)
	requireClosed(t, ours)
}

func TestJoin_RefusesATicketThatProvesNothing(t *testing.T) {
	for field, ticket := range map[string]handshake.Ticket{
		"Ticket: no secret": {ID: "x"},
		"Ticket.ID":         handshake.NewTicket(transport.Addr{}, ""),
		"no secret": handshake.NewTicket(transport.Addr{},
			"x").WithSecret(make([]byte, 32)),
	} {
		a, _ := net.Pipe()
		_, err := handshake.Join(testkit.Context(t), a, ticket, handshake.JoinConfig{})
		require.ErrorContains(t, err, field)
		requireClosed(t, a)
	}
}
