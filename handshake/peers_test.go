package handshake_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// links are the ways to connect two peers.
var links = []struct {
	name string
	ends func(testing.TB) (a, b net.Conn)
}{
	{"a Unix socket", networks[0].ends},
	{"TCP", networks[1].ends},
	{"net.Pipe", pipeEnds},
}

func pipeEnds(t testing.TB) (a, b net.Conn) {
	t.Helper()
	a, b = net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func overLinks(t *testing.T, test func(t *testing.T, dialer, acceptor net.Conn)) {
	for _, link := range links {
		t.Run("over "+link.name, func(t *testing.T) {
			t.Parallel() // over net.Pipe, two sides that fail at the same time take a second
			a, b := link.ends(t)
			test(t, a, b)
		})
	}
}

// met is the result of a handshake on one side.
type met struct {
	peer *handshake.Peer
	err  error
}

// meet makes both sides of a handshake.
func meet(t testing.TB, a, b net.Conn, dialer, acceptor handshake.PeerConfig) (d, c met) {
	t.Helper()
	ctx := testkit.Context(t)
	var both sync.WaitGroup
	both.Go(func() { d.peer, d.err = handshake.ConnectPeer(ctx, a, dialer) })
	both.Go(func() { c.peer, c.err = handshake.AcceptPeer(ctx, b, acceptor) })
	both.Wait()
	for _, m := range []met{d, c} {
		if m.err != nil {
			require.Nil(t, m.peer)
			continue
		}
		t.Cleanup(func() { m.peer.Abort() })
	}
	return d, c
}

func named(name string, cfg handshake.PeerConfig) handshake.PeerConfig {
	cfg.Identity = handshake.Identity{ID: name + "-1", Name: name}
	return cfg
}

var sharedKey = []byte("0123456789abcdef")

func TestPeers_WithOneKeyMeet(t *testing.T) {
	overLinks(t, func(t *testing.T, a, b net.Conn) {
		ctx := testkit.Context(t)
		left, right := handshake.PeerConfig{Key: sharedKey}, handshake.PeerConfig{Key: sharedKey}
		asked := make(chan handshake.Cancel, 1)
		right.OnCancel = func(c handshake.Cancel) { asked <- c }
		d, c := meet(t, a, b, named("left", left), named("right", right))
		require.NoError(t, d.err)
		require.NoError(t, c.err)
		assert.Equal(t, handshake.Identity{ID: "right-1", Name: "right", PID: os.Getpid()},
			d.peer.Identity)
		assert.Equal(t, handshake.Identity{ID: "left-1", Name: "left", PID: os.Getpid()},
			c.peer.Identity)

		large := strings.Repeat("x", 2*access.PreAuthLimit)
		sent := make(chan error, 2)
		go func() {
			sent <- d.peer.Cancel(ctx, please)
			sent <- d.peer.Channel.Send(ctx, large)
		}()
		requireReceives(t, c.peer.Channel, large)
		require.NoError(t, <-sent)
		require.NoError(t, <-sent)
		assert.Equal(t, please, <-asked)

		go func() { sent <- c.peer.Close() }()
		var bye *transport.GoodbyeError
		require.ErrorAs(t, d.peer.Channel.Recv(ctx, new(any)), &bye)
		require.NoError(t, <-sent)
	})
}

func TestPeers_WithTwoKeysRefuseEachOther(t *testing.T) {
	t.Parallel()
	overLinks(t, func(t *testing.T, a, b net.Conn) {
		start := time.Now()
		d, c := meet(t, a, b, handshake.PeerConfig{Key: sharedKey, Timeout: patience},
			handshake.PeerConfig{Key: append([]byte{0}, sharedKey...), Timeout: patience})
		for _, m := range []met{d, c} {
			require.ErrorIs(t, m.err, handshake.ErrBadMAC)
			requirePhase(t, handshake.PhaseAuth, m.err)
		}
		assert.Less(t, time.Since(start), patience/2,
			"nobody waits for a peer that does not listen any more")
		requireClosed(t, a)
		requireClosed(t, b)
	})
}

func TestPeers_MustAgreeOnAuthentication(t *testing.T) {
	t.Parallel()
	key, user, anybody := handshake.PeerConfig{Key: sharedKey},
		handshake.PeerConfig{SameUser: true}, handshake.PeerConfig{Anonymous: true}
	for _, test := range []struct {
		name        string
		left, right handshake.PeerConfig
		l, r        string
	}{
		{"a key and nothing", key, anybody, "key", "none"},
		{"nothing and a key", anybody, key, "none", "key"},
		{"a key and the user", key, user, "key", "same-user"},
		{"the user and nothing", user, anybody, "same-user", "none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			overLinks(t, func(t *testing.T, a, b net.Conn) {
				d, c := meet(t, a, b, test.left, test.right)
				require.ErrorContains(t, d.err,
					`the peer wants authentication by "`+test.r+`", this side by "`+test.l+`"`)
				require.ErrorContains(t, c.err,
					`the peer wants authentication by "`+test.l+`", this side by "`+test.r+`"`)
				requirePhase(t, handshake.PhaseAuth, d.err)
			})
		})
	}
	t.Run("and both may want nothing", func(t *testing.T) {
		overLinks(t, func(t *testing.T, a, b net.Conn) {
			d, c := meet(t, a, b, anybody, anybody)
			require.NoError(t, d.err)
			require.NoError(t, c.err)
		})
	})
}

func TestPeers_OfOneUserMeetOnUnixSockets(t *testing.T) {
	t.Parallel()
	cfg := handshake.PeerConfig{SameUser: true}
	t.Run("over a Unix socket", func(t *testing.T) {
		a, b := networks[0].ends(t)
		if _, err := uds.PeerCred(a); err != nil {
			t.Skip(err)
		}
		d, c := meet(t, a, b, cfg, cfg)
		require.NoError(t, d.err)
		require.NoError(t, c.err)
	})
	for _, link := range links[1:] {
		t.Run("and not over "+link.name, func(t *testing.T) {
			a, b := link.ends(t)
			d, c := meet(t, a, b, cfg, cfg)
			for _, m := range []met{d, c} {
				require.ErrorIs(t, m.err, uds.ErrNotUnix)
				require.ErrorContains(t, m.err, "SameUser")
				requirePhase(t, handshake.PhaseAuth, m.err)
			}
		})
	}
}

func TestPeers_ConfigErrorNamesTheField(t *testing.T) {
	ok := handshake.PeerConfig{Key: sharedKey}
	for _, test := range []struct {
		name   string
		change func(*handshake.PeerConfig)
		want   []string
	}{
		{"no way to know the peer", func(c *handshake.PeerConfig) {
			c.Key = nil
		}, []string{"PeerConfig", "none", "Key", "SameUser", "Anonymous"}},
		{"two ways", func(c *handshake.PeerConfig) {
			c.Anonymous = true
		}, []string{"PeerConfig", "more than one", "Key", "SameUser", "Anonymous"}},
		{"two others", func(c *handshake.PeerConfig) {
			c.Key, c.SameUser, c.Anonymous = nil, true, true
		}, []string{"PeerConfig", "more than one"}},
		{"a short key", func(c *handshake.PeerConfig) {
			c.Key = c.Key[:15]
		}, []string{"PeerConfig.Key", "15", "16"}},
		{"an empty key", func(c *handshake.PeerConfig) {
			c.Key = []byte{}
		}, []string{"PeerConfig.Key", "0", "16"}},
		{"an id with a space", func(c *handshake.PeerConfig) {
			c.Identity.ID = "a b"
		}, []string{"PeerConfig.Identity", "space"}},
		{"a negative pid", func(c *handshake.PeerConfig) {
			c.Identity.PID = -7
		}, []string{"PeerConfig.Identity", "pid -7"}},
		{"a negative time", func(c *handshake.PeerConfig) {
			c.Timeout = -time.Second
		}, []string{"PeerConfig.Timeout", "-1s"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, side := range []func(context.Context, net.Conn,
				handshake.PeerConfig) (*handshake.Peer, error){handshake.ConnectPeer,
				handshake.AcceptPeer} {
				// the other end is not read, because the fault must be found before
				// anything is sent
				a, _ := pipeEnds(t)
				cfg := ok
				test.change(&cfg)
				start := time.Now()
				_, err := side(testkit.Context(t), a, cfg)
				for _, want := range test.want {
					require.ErrorContains(t, err, want)
				}
				assert.NotContains(t, err.Error(), string(sharedKey[:15]))
				requirePhase(t, handshake.PhaseHello, err)
				requireClosed(t, a)
				assert.Less(t, time.Since(start), patience/2)
			}
		})
	}
}

func TestPeers_Versions(t *testing.T) {
	t.Parallel()
	overLinks(t, func(t *testing.T, a, b net.Conn) {
		left, right := handshake.PeerConfig{Key: sharedKey}, handshake.PeerConfig{Key: sharedKey}
		left.SetVersions(1, 3)
		right.SetVersions(2, 9)
		d, c := meet(t, a, b, left, right)
		require.NoError(t, d.err)
		require.NoError(t, c.err)
	})
	overLinks(t, func(t *testing.T, a, b net.Conn) {
		left, right := handshake.PeerConfig{Key: sharedKey}, handshake.PeerConfig{Key: sharedKey}
		left.SetVersions(1, 1)
		right.SetVersions(2, 9)
		d, c := meet(t, a, b, left, right)
		requireVersionError(t, d.err, [2]uint{1, 1}, [2]uint{2, 9})
		requireVersionError(t, c.err, [2]uint{2, 9}, [2]uint{1, 1})
	})
}

func TestPeers_SilentOneTimesOut(t *testing.T) {
	t.Parallel()
	overLinks(t, func(t *testing.T, a, b net.Conn) {
		_, err := handshake.ConnectPeer(testkit.Context(t), a,
			handshake.PeerConfig{Key: sharedKey, Timeout: 20 * time.Millisecond})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		requirePhase(t, handshake.PhaseHello, err)
		requireClosed(t, a)
	})
	overLinks(t, func(t *testing.T, a, b net.Conn) { // and one that is silent after its greet
		greet := frameOf(frame.KindGreet, encoded(t, greetFields("x", "key")))
		go b.Write(greet)
		go readFrame(b)
		_, err := handshake.AcceptPeer(testkit.Context(t), a,
			handshake.PeerConfig{Key: sharedKey, Timeout: enough})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		requirePhase(t, handshake.PhaseAuth, err)
		requireClosed(t, a)
	})
}

func TestPeers_EndWithTheirContext(t *testing.T) {
	overLinks(t, func(t *testing.T, a, b net.Conn) {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			readFrame(b)
			cancel()
		}()
		_, err := handshake.ConnectPeer(ctx, a, handshake.PeerConfig{Anonymous: true})
		require.ErrorIs(t, err, context.Canceled)
		requireClosed(t, a)
	})
}

func TestPeers_GoneOneIsReported(t *testing.T) {
	overLinks(t, func(t *testing.T, a, b net.Conn) {
		require.NoError(t, b.Close())
		_, err := handshake.ConnectPeer(testkit.Context(t), a,
			handshake.PeerConfig{Anonymous: true})
		require.ErrorIs(t, err, transport.ErrPeerGone)
	})
}

func greetFields(id, auth string) fields {
	msg := helloFields(id)
	msg["auth"] = auth
	return msg
}

// requireOddPeerRefused makes a handshake with the peer played by the function. It
// checks that the side under test ends the handshake at once.
func requireOddPeerRefused(t *testing.T, cfg handshake.PeerConfig, peer func(net.Conn)) error {
	t.Helper()
	a, b := networks[0].ends(t)
	cfg.Timeout = patience
	var other sync.WaitGroup
	other.Go(func() { peer(b) })
	start := time.Now()
	_, err := handshake.ConnectPeer(testkit.Context(t), a, cfg)
	require.Error(t, err)
	requireClosed(t, a)
	other.Wait()
	assert.Less(t, time.Since(start), patience/2)
	return err
}

func TestPeers_OddOnesAreRefused(t *testing.T) {
	good := frameOf(frame.KindGreet, encoded(t, greetFields("x", "key")))
	for _, test := range []struct {
		name string
		says []byte
		want error
	}{
		{"an HTTP request", []byte("GET / HTTP/1.1\r\n\r\n"), transport.ErrProtocol},
		{"an oversize frame",
			frameOf(frame.KindGreet, make([]byte, access.PreAuthLimit)), transport.ErrProtocol},
		{"a hello", frameOf(frame.KindHello, encoded(t, greetFields("x", "key"))),
			transport.ErrProtocol},
		{"a proof first",
			frameOf(frame.KindProof, encoded(t, make([]byte, 32))), transport.ErrProtocol},
		{"not CBOR", frameOf(frame.KindGreet, []byte{0xff}), transport.ErrProtocol},
		{"no id", frameOf(frame.KindGreet, encoded(t, greetFields("", "key"))),
			transport.ErrProtocol},
		{"deep nesting", frameOf(frame.KindGreet, nested(9)), transport.ErrProtocol},
		{"two greets", append(good, good...), transport.ErrProtocol},
		{"no proof", append(good, frameOf(frame.KindProof, []byte{0xf6})...), handshake.ErrBadMAC},
		{"an empty proof",
			append(good, frameOf(frame.KindProof, []byte{0x40})...), handshake.ErrBadMAC},
		{"zeros for a proof",
			append(good, frameOf(frame.KindProof, encoded(t, make([]byte, 32)))...),
			handshake.ErrBadMAC},
		{"text for a proof",
			append(good, frameOf(frame.KindProof, encoded(t, strings.Repeat("x", 32)))...),
			transport.ErrProtocol},
		{"failed", frameOf(frame.KindFailed,
			encoded(t, fields{"phase": "auth", "code": "refused", "error": "no"})),
			handshake.ErrRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := requireOddPeerRefused(t,
				handshake.PeerConfig{Key: sharedKey}, func(conn net.Conn) {
					conn.Write(test.says)
					for err := error(nil); err == nil; {
						_, _, err = readFrame(conn)
					}
				})
			require.ErrorIs(t, err, test.want)
		})
	}
	t.Run("a way to know each other of which nobody has heard", func(t *testing.T) {
		err := requireOddPeerRefused(t, handshake.PeerConfig{Key: sharedKey}, func(conn net.Conn) {
			conn.Write(frameOf(frame.KindGreet,
				encoded(t, greetFields("x", strings.Repeat("\n", 60000)))))
		})
		assert.Less(t, len(err.Error()), 1000)
	})
}

func TestPeers_CannotReflectAProof(t *testing.T) {
	cfg := named("me", handshake.PeerConfig{Key: sharedKey})
	t.Run("as it is", func(t *testing.T) {
		err := requireOddPeerRefused(t, cfg, func(conn net.Conn) {
			for {
				kind, body, err := readFrame(conn)
				if err != nil {
					return
				}
				conn.Write(frameOf(kind, body))
			}
		})
		require.ErrorIs(t, err, transport.ErrProtocol)
		require.ErrorContains(t, err, "own id")
	})
	t.Run("with another id", func(t *testing.T) {
		err := requireOddPeerRefused(t, cfg, func(conn net.Conn) {
			for {
				kind, body, err := readFrame(conn)
				if err != nil {
					return
				}
				conn.Write(frameOf(kind, bytes.Replace(body, []byte("me-1"), []byte("me-2"), 1)))
			}
		})
		require.ErrorIs(t, err, handshake.ErrBadMAC)
	})
}

// carry passes frames in both directions until either connection ends.
func carry(t *testing.T, a, b net.Conn, edit func(frame.Kind, []byte) []byte) {
	t.Helper()
	var both sync.WaitGroup
	pass := func(from, to net.Conn) {
		defer to.Close()
		for {
			kind, body, err := readFrame(from)
			if err != nil {
				return
			}
			if _, err := to.Write(frameOf(kind, edit(kind, body))); err != nil {
				return
			}
		}
	}
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	t.Cleanup(func() {
		a.Close()
		b.Close()
		both.Wait()
	})
}

func TestPeers_AreNotConnectedToThemselves(t *testing.T) {
	// A man in the middle connects the dialing side of a peer to its listening side.
	d, dm := networks[0].ends(t)
	c, cm := networks[0].ends(t)
	carry(t, dm, cm, func(_ frame.Kind, body []byte) []byte { return body })
	cfg := named("me", handshake.PeerConfig{Key: sharedKey})
	dialed, accepted := meet(t, d, c, cfg, cfg)
	for _, m := range []met{dialed, accepted} {
		require.ErrorIs(t, m.err, transport.ErrProtocol)
		require.ErrorContains(t, m.err, "own id")
	}
}

func TestPeers_TwoDialersAreRefused(t *testing.T) {
	// Two acceptors are refused too, because a proof names the side of its maker.
	ctx := testkit.Context(t)
	for _, side := range []func(context.Context, net.Conn, handshake.PeerConfig) (*handshake.Peer,
		error){handshake.ConnectPeer, handshake.AcceptPeer} {
		a, b := networks[0].ends(t)
		errs := make(chan error, 2)
		for _, conn := range []net.Conn{a, b} {
			go func() {
				_, err := side(ctx, conn, handshake.PeerConfig{Key: sharedKey})
				errs <- err
			}()
		}
		require.ErrorIs(t, <-errs, handshake.ErrBadMAC)
		require.ErrorIs(t, <-errs, handshake.ErrBadMAC)
	}
}

func TestPeers_ChangedByteOfAGreetIsFound(t *testing.T) {
	size := 1
	for i := 0; i < size; i++ {
		d, dm := networks[0].ends(t)
		c, cm := networks[0].ends(t)
		carry(t, dm, cm, func(kind frame.Kind, body []byte) []byte {
			var msg fields
			if kind == frame.KindGreet &&
				cbor.Unmarshal(body, &msg) == nil && msg["name"] == "left" {
				size = len(body)
				body[i] ^= 1
			}
			return body
		})
		cfg := handshake.PeerConfig{Key: sharedKey}
		dialed, accepted := meet(t, d, c, named("left", cfg), named("right", cfg))
		require.Error(t, dialed.err, "byte %d", i)
		require.Error(t, accepted.err, "byte %d", i)
	}
	assert.Greater(t, size, 64)
}

func TestPeers_GetDifferentIDs(t *testing.T) {
	a, b := networks[0].ends(t)
	cfg := handshake.PeerConfig{Key: sharedKey,
		Identity: handshake.Identity{Name: strings.Repeat("€", 100)}}
	d, c := meet(t, a, b, cfg, cfg)
	require.NoError(t, d.err)
	require.NoError(t, c.err)
	assert.NotEqual(t, d.peer.ID, c.peer.ID)
	assert.Equal(t, strings.Repeat("€", 85), d.peer.Name)
}
