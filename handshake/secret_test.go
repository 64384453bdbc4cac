package handshake_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// captureHello returns the hello frame of a child with the ticket. The parent does
// not receive it.
func captureHello(t testing.TB, ticket handshake.Ticket) []byte {
	t.Helper()
	ours, theirs := networks[0].ends(t)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	var joins sync.WaitGroup
	joins.Go(func() { handshake.Join(ctx, ours, ticket, handshake.JoinConfig{}) })
	body := requireFrame(t, theirs, frame.KindHello)
	cancel()
	joins.Wait()
	return frameOf(frame.KindHello, body)
}

// say connects to the address and writes the bytes.
func say(t testing.TB, addr transport.Addr, b []byte) net.Conn {
	t.Helper()
	conn := dial(t, addr)
	_, err := conn.Write(b)
	require.NoError(t, err)
	return conn
}

func TestHello_WorksOnce(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		book := newLogbook()
		l := listen(t, n, handshake.ListenerConfig{Logger: book.logger()})
		x, ticket := expect(t, l, nil)
		hello := captureHello(t, ticket)

		first := say(t, ticket.Addr, hello)
		requireFrame(t, first, frame.KindWelcome)
		requireFrame(t, first, frame.KindSpec)
		requireRefused(t, say(t, ticket.Addr, hello)) // while the first handshake is in progress

		_, err := first.Write(frameOf(frame.KindReady, encoded(t, fields{"timings": fields{}})))
		require.NoError(t, err)
		peer := wait(t, x)
		requireRefused(t, say(t, ticket.Addr, hello)) // when the child is ready

		require.NoError(t, peer.Close())
		requireRefused(t, say(t, ticket.Addr, hello)) // when the child has left
		for _, reason := range book.refusals(t, 3) {
			assert.Contains(t, reason, handshake.ErrUnknownPeer.Error())
		}
	})
}

func TestHello_OneOfManyEqualOnesIsAccepted(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	for range 20 {
		x, ticket := expect(t, l, nil)
		hello := captureHello(t, ticket)
		var conns []net.Conn
		for range 8 {
			conns = append(conns, dial(t, ticket.Addr))
		}
		kinds := make([]frame.Kind, len(conns))
		var wg sync.WaitGroup
		for i, conn := range conns {
			wg.Go(func() {
				conn.Write(hello)
				kinds[i], _, _ = readFrame(conn)
			})
		}
		wg.Wait()
		slices.Sort(kinds)
		assert.Equal(t, append([]frame.Kind{frame.KindWelcome},
			slices.Repeat([]frame.Kind{frame.KindFailed}, 7)...), kinds)
		x.Cancel()
	}
}

func TestHello_SecondJoinWithATicketIsRefused(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := joinReady(t, ticket, handshake.JoinConfig{})
		peer := wait(t, x)
		requireJoinRefused(t, ticket)
		require.NoError(t, j.Channel.Send(testkit.Context(t), "undisturbed"))
		requireReceives(t, peer.Channel, "undisturbed")
	})
}

// requireJoinRefused checks that a child with the ticket is refused without a
// reason.
func requireJoinRefused(t testing.TB, ticket handshake.Ticket) {
	t.Helper()
	_, err := handshake.Join(testkit.Context(t), dial(t, ticket.Addr),
		ticket, handshake.JoinConfig{})
	require.ErrorIs(t, err, handshake.ErrRefused)
	requirePhase(t, handshake.PhaseAuth, err)
	require.ErrorContains(t, err, "not accepted")
}

func TestHello_WithoutTheRightTicketIsRefused(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		book := newLogbook()
		l := listen(t, n, handshake.ListenerConfig{Logger: book.logger()})
		x, ticket := expect(t, l, nil)

		t.Run("a child whom nobody waits for any more", func(t *testing.T) {
			late, lateTicket := expect(t, l, nil)
			late.Cancel()
			requireJoinRefused(t, lateTicket)
			_, err := late.WaitForPeer(testkit.Context(t))
			require.ErrorIs(t, err, context.Canceled)
		})
		t.Run("an unknown id", func(t *testing.T) {
			stranger := ticket
			stranger.ID = handshake.NewID()
			requireJoinRefused(t, stranger)
		})
		t.Run("the right id with a wrong secret", func(t *testing.T) {
			stranger := handshake.NewTicket(ticket.Addr, ticket.ID)
			requireJoinRefused(t, stranger)
			testkit.Eventually(t, "the refusal is noted", func() bool {
				return x.Internal(access.Key{}).Refused() != nil
			})
			require.ErrorIs(t, x.Internal(access.Key{}).Refused(), handshake.ErrBadMAC)
			requirePhase(t, handshake.PhaseAuth, x.Internal(access.Key{}).Refused())
		})
		t.Run("another child's secret", func(t *testing.T) {
			_, other := expect(t, l, nil)
			other.ID = ticket.ID
			requireJoinRefused(t, other)
		})
		t.Run("no secret at all", func(t *testing.T) {
			stranger := ticket.WithSecret(make([]byte, 32))
			requireRefused(t, say(t, ticket.Addr, helloFrame(t, stranger, helloFields(ticket.ID))))
		})

		select {
		case <-x.Done():
			require.Fail(t, "a stranger ended the wait")
		default:
		}
		requireJoins(t, x, ticket)
		for _, reason := range book.refusals(t, 5) {
			assert.NotContains(t, reason, string(ticket.Secret()))
		}
	})
}

func TestOwnProcess_RefusalEndsTheWait(t *testing.T) {
	t.Parallel()
	wrong := func(ticket handshake.Ticket) handshake.Ticket {
		return handshake.NewTicket(ticket.Addr, ticket.ID)
	}
	requireEnded := func(t *testing.T, x *handshake.Expected, ticket handshake.Ticket) {
		_, err := x.WaitForPeer(testkit.Context(t))
		require.ErrorIs(t, err, handshake.ErrBadMAC)
		requirePhase(t, handshake.PhaseAuth, err)
		requireJoinRefused(t, ticket) // now the right secret is refused too
	}
	t.Run("when its pid is known before", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		x.SetPID(os.Getpid())
		requireJoinRefused(t, wrong(ticket))
		requireEnded(t, x, ticket)
	})
	t.Run("when its pid is known after", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		requireJoinRefused(t, wrong(ticket))
		require.ErrorIs(t, x.Internal(access.Key{}).Refused(), handshake.ErrBadMAC)
		x.SetPID(os.Getpid())
		requireEnded(t, x, ticket)
	})
	t.Run("also when its hello cannot be read at all", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		x.SetPID(os.Getpid() + 1)
		// this process is not the child yet
		requireRefused(t, say(t, ticket.Addr, frameOf(frame.KindHello, []byte{0xff})))
		require.NoError(t, x.Internal(access.Key{}).Refused())
		x.SetPID(os.Getpid())
		requireRefused(t, say(t, ticket.Addr, frameOf(frame.KindHello, []byte{0xff})))
		_, err := x.WaitForPeer(testkit.Context(t))
		require.ErrorIs(t, err, transport.ErrProtocol)
		requirePhase(t, handshake.PhaseHello, err)
		requireJoinRefused(t, ticket)
	})
	t.Run("but not that of another process", func(t *testing.T) {
		l := overUnix(t, handshake.ListenerConfig{AllowOtherProcesses: true})
		x, ticket := expect(t, l, nil)
		x.SetPID(os.Getpid() + 1)
		requireJoinRefused(t, wrong(ticket))
		requireJoins(t, x, ticket)
	})
	t.Run("nor where the kernel does not tell and the pid is not known", func(t *testing.T) {
		l := listen(t, networks[1], handshake.ListenerConfig{})
		for _, pid := range []int{0, -1} {
			x, ticket := expect(t, l, nil)
			requireJoinRefused(t, wrong(ticket))
			x.SetPID(pid)
			requireJoinRefused(t, wrong(ticket))
			assert.Equal(t, handshake.PhaseConnect, x.Phase())
			requireJoins(t, x, ticket)
		}
	})
}

// fakeParent plays the parent over a Unix socket. It writes the result of answer
// to the child and returns the error of the child's Join.
func fakeParent(t *testing.T, ticket handshake.Ticket, answer func(hello []byte) []byte) error {
	t.Helper()
	ours, theirs := networks[0].ends(t)
	joined := make(chan error, 1)
	go func() {
		_, err := handshake.Join(testkit.Context(t), ours, ticket, handshake.JoinConfig{})
		joined <- err
	}()
	hello := requireFrame(t, theirs, frame.KindHello)
	theirs.Write(answer(hello)) // fails if the child refuses it after its header
	err := <-joined
	require.Error(t, err)
	requireClosed(t, ours)
	return err
}

func welcomeFields() fields {
	return fields{"version": 1, "id": "boss", "name": "boss", "pid": 1, "nonce": make([]byte, 32)}
}

func TestProof_ChildRefusesAnUnprovedParent(t *testing.T) {
	ticket := handshake.NewTicket(transport.Addr{}, "child")
	right, wrong := ticket.Secret(), make([]byte, 32)
	rand.Read(wrong)
	welcome := encoded(t, welcomeFields())
	const label = "spawnwire welcome"

	bodies := func(key []byte, hello []byte) (w, s []byte) {
		w = sealed(t, key, label, welcome, hello)
		return w, sealed(t, key, "spawnwire spec", []byte("run"), hello, w)
	}
	for _, test := range []struct {
		name   string
		answer func(hello []byte) []byte
		want   error
		phase  handshake.Phase
	}{
		{"it does not know the secret", func(hello []byte) []byte {
			w, s := bodies(wrong, hello)
			return append(frameOf(frame.KindWelcome, w), frameOf(frame.KindSpec, s)...)
		}, handshake.ErrBadMAC, handshake.PhaseAuth},
		{"its secret is empty", func(hello []byte) []byte {
			w, s := bodies(nil, hello)
			return append(frameOf(frame.KindWelcome, w), frameOf(frame.KindSpec, s)...)
		}, handshake.ErrBadMAC, handshake.PhaseAuth},
		{"its welcome answers another hello", func(hello []byte) []byte {
			return frameOf(frame.KindWelcome,
				sealed(t, right, label, welcome, append([]byte{0}, hello...)))
		}, handshake.ErrBadMAC, handshake.PhaseAuth},
		{"its welcome is proved as something else", func(hello []byte) []byte {
			return frameOf(frame.KindWelcome, sealed(t, right, "spawnwire spec", welcome, hello))
		}, handshake.ErrBadMAC, handshake.PhaseAuth},
		{"its welcome is the child's own hello", func(hello []byte) []byte {
			return frameOf(frame.KindWelcome, hello)
		}, handshake.ErrBadMAC, handshake.PhaseAuth},
		{"its welcome is the hello as a hello", func(hello []byte) []byte {
			return frameOf(frame.KindHello, hello)
		}, transport.ErrProtocol, handshake.PhaseAuth},
		{"its proof is cut short", func(hello []byte) []byte {
			return frameOf(frame.KindWelcome,
				encoded(t, []any{welcome, proof(right, label, hello, welcome)[:31]}))
		}, transport.ErrProtocol, handshake.PhaseAuth},
		{"its proof is missing", func(hello []byte) []byte {
			return frameOf(frame.KindWelcome, encoded(t, []any{welcome, nil}))
		}, transport.ErrProtocol, handshake.PhaseAuth},
		{"its welcome is too large for a stranger's", func(hello []byte) []byte {
			return frameOf(frame.KindWelcome, make([]byte, access.PreAuthLimit))
		}, transport.ErrProtocol, handshake.PhaseAuth},
		{"its spec has another proof", func(hello []byte) []byte {
			w, _ := bodies(right, hello)
			_, s := bodies(wrong, hello)
			return append(frameOf(frame.KindWelcome, w), frameOf(frame.KindSpec, s)...)
		}, handshake.ErrBadMAC, handshake.PhaseSpec},
		{"its spec belongs to another welcome", func(hello []byte) []byte {
			w, _ := bodies(right, hello)
			s := sealed(t, right, "spawnwire spec", []byte("run"), hello, append([]byte{0}, w...))
			return append(frameOf(frame.KindWelcome, w), frameOf(frame.KindSpec, s)...)
		}, handshake.ErrBadMAC, handshake.PhaseSpec},
		{"its spec is a message", func(hello []byte) []byte {
			w, s := bodies(right, hello)
			return append(frameOf(frame.KindWelcome, w), frameOf(frame.KindMessage, s)...)
		}, transport.ErrProtocol, handshake.PhaseSpec},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := fakeParent(t, ticket, test.answer)
			require.ErrorIs(t, err, test.want)
			requirePhase(t, test.phase, err)
		})
	}

	t.Run("and one whose proof is right but whose words are not", func(t *testing.T) {
		for name, change := range map[string]fields{
			"a nonce of 31 bytes":  {"nonce": make([]byte, 31)},
			"no id":                {"id": ""},
			"a negative pid":       {"pid": -1},
			"a long name":          {"name": string(bytes.Repeat([]byte("x"), 257))},
			"a feature of no name": {"features": []string{""}},
			"an id that is bytes":  {"id": []byte("boss")},
		} {
			t.Run(name, func(t *testing.T) {
				msg := welcomeFields()
				for k, v := range change {
					msg[k] = v
				}
				err := fakeParent(t, ticket, func(hello []byte) []byte {
					return frameOf(frame.KindWelcome,
						sealed(t, right, label, encoded(t, msg), hello))
				})
				require.ErrorIs(t, err, transport.ErrProtocol)
			})
		}
		msg := welcomeFields()
		msg["version"] = 2
		err := fakeParent(t, ticket, func(hello []byte) []byte {
			return frameOf(frame.KindWelcome, sealed(t, right, label, encoded(t, msg), hello))
		})
		requireVersionError(t, err, [2]uint{1, 1}, [2]uint{2, 2})
	})
}

func TestProof_FailureOfAnUnprovedParentIsBounded(t *testing.T) {
	ticket := handshake.NewTicket(transport.Addr{}, "child")
	long := string(bytes.Repeat([]byte("€"), 20000))
	err := fakeParent(t, ticket, func([]byte) []byte {
		return frameOf(frame.KindFailed,
			encoded(t, fields{"phase": long[:300], "code": long[:300], "error": long}))
	})
	var said *handshake.FailedError
	require.ErrorAs(t, err, &said)
	assert.Equal(t, handshake.PhaseAuth, said.Phase)
	assert.Equal(t, "error", said.Code())
	assert.Equal(t, long[:4095], said.Text)
}

// relay connects a child to a parent and passes each frame's body through edit. If
// edit returns nil, relay closes the connection.
func relay(
	t *testing.T, parent transport.Addr, edit func(kind frame.Kind, body []byte) []byte,
) (child net.Conn) {
	t.Helper()
	ours, theirs := networks[0].ends(t)
	up := dial(t, parent)
	var relays sync.WaitGroup
	pass := func(from, to net.Conn) {
		defer to.Close()
		for {
			kind, body, err := readFrame(from)
			if err != nil {
				return
			}
			if body = edit(kind, body); body == nil {
				return
			}
			if _, err := to.Write(frameOf(kind, body)); err != nil {
				return
			}
		}
	}
	relays.Go(func() { pass(theirs, up) })
	relays.Go(func() { pass(up, theirs) })
	t.Cleanup(func() {
		theirs.Close()
		up.Close()
		relays.Wait()
	})
	return ours
}

func TestProof_ChangedByteIsFound(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{Identity: handshake.Identity{ID: "p", Name: "p"}})

	t.Run("in hello", func(t *testing.T) {
		x, ticket := expect(t, l, nil)
		hello := captureHello(t, ticket)
		for i := 5; i < len(hello); i++ { // after the frame's length and kind
			changed := slices.Clone(hello)
			changed[i] ^= 1
			requireRefused(t, say(t, ticket.Addr, changed))
		}
		for size := 5; size < len(hello); size += 7 {
			requireRefused(t, say(t, ticket.Addr, frameOf(frame.KindHello, hello[5:size])))
		}
		requireRefused(t,
			say(t, ticket.Addr,
				frameOf(frame.KindHello, append(hello[5:len(hello):len(hello)], 0))))
		requireFrame(t, say(t, ticket.Addr, hello), frame.KindWelcome)
		x.Cancel()
	})

	for _, kind := range []frame.Kind{frame.KindWelcome, frame.KindSpec} {
		t.Run("in "+kind.String(), func(t *testing.T) {
			var size atomic.Int64
			size.Store(1)
			for i := 0; i < int(size.Load()); i++ {
				x, ticket := expect(t, l, []byte("orders"))
				conn := relay(t, ticket.Addr, func(k frame.Kind, body []byte) []byte {
					if k == kind {
						body[i] ^= 1
						size.Store(int64(len(body)))
					}
					return body
				})
				_, err := handshake.Join(testkit.Context(t), conn, ticket, handshake.JoinConfig{})
				require.Error(t, err, "byte %d", i)
				_, err = x.WaitForPeer(testkit.Context(t))
				require.ErrorIs(t, err, transport.ErrPeerGone)
			}
			assert.Greater(t, size.Load(), int64(32))
		})
	}

	t.Run("and a relay that changes nothing is not noticed", func(t *testing.T) {
		x, ticket := expect(t, l, []byte("orders"))
		conn := relay(t, ticket.Addr, func(_ frame.Kind, body []byte) []byte { return body })
		j, err := handshake.Join(testkit.Context(t), conn, ticket, handshake.JoinConfig{})
		require.NoError(t, err)
		require.NoError(t, j.Ready(testkit.Context(t), nil))
		wait(t, x)
		require.NoError(t, j.Channel.Abort())
	})
}

func TestProof_SpecIsForOneChild(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	_, second := expect(t, l, []byte("harmful"))
	var bodies sync.Map // by frame.Kind
	conn := relay(t, second.Addr, func(kind frame.Kind, body []byte) []byte {
		bodies.Store(kind, body)
		return body
	})
	_, err := handshake.Join(testkit.Context(t), conn, second, handshake.JoinConfig{})
	require.NoError(t, err)
	for _, kind := range []frame.Kind{frame.KindWelcome, frame.KindSpec} {
		_, ticket := expect(t, l, []byte("harmless"))
		conn := relay(t, ticket.Addr, func(k frame.Kind, body []byte) []byte {
			if k == kind {
				earlier, _ := bodies.Load(kind)
				return earlier.([]byte)
			}
			return body
		})
		_, err := handshake.Join(testkit.Context(t), conn, ticket, handshake.JoinConfig{})
		require.ErrorIs(t, err, handshake.ErrBadMAC)
	}
}
