//go:build unix

package peers_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// keyFile returns a key and the path of a file with it.
func keyFile(t testing.TB, fill string) (key []byte, file string) {
	t.Helper()
	key = []byte(strings.Repeat(fill, 32))
	file = filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, key, 0o600))
	return key, file
}

// accepts starts a peer that listens, and returns its address.
func (l language) accepts(t testing.TB, addr transport.Addr,
	file string) (*program, transport.Addr) {
	t.Helper()
	p := l.start(t, nil, l.peer, "accept", addr.String(), file)
	addr, err := transport.ParseAddr(p.stdout.after(t, "listening on "))
	require.NoError(t, err)
	return p, addr
}

func TestPeer_GoDials(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		l.overEach(t, func(t *testing.T, addr transport.Addr) {
			key, file := keyFile(t, "k")
			p, addr := l.accepts(t, addr, file)
			peer, err := handshake.ConnectPeer(t.Context(), dial(t, addr),
				handshake.PeerConfig{Key: key})
			require.NoError(t, err)
			assert.Equal(t, l.name, peer.Name)
			assert.Equal(t, p.Process.Pid, peer.PID)
			for i := range 3 {
				var got string
				require.NoError(t, peer.Channel.Send(t.Context(), fmt.Sprint("message ", i)))
				require.NoError(t, peer.Channel.Recv(t.Context(), &got))
				assert.Equal(t, fmt.Sprint("message ", i), got)
			}
			require.NoError(t, peer.Close())
			assert.Equal(t, 0, p.end(t), p.stderr)
		})
	})
}

// echo accepts one peer and sends back each of its messages.
func echo(ctx context.Context, ln net.Listener, key []byte) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	peer, err := handshake.AcceptPeer(ctx, conn, handshake.PeerConfig{Key: key})
	if err != nil {
		return err
	}
	defer peer.Close()
	for {
		var v any
		if err := peer.Channel.Recv(ctx, &v); err != nil {
			return err
		}
		if err := peer.Channel.Send(ctx, v); err != nil {
			return err
		}
	}
}

func TestPeer_DialsGo(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		l.overEach(t, func(t *testing.T, addr transport.Addr) {
			key, file := keyFile(t, "k")
			ln := listen(t, addr)
			defer ln.Close()
			echoed := make(chan error, 1)
			go func() { echoed <- echo(t.Context(), ln, key) }()
			p := l.start(t, nil, l.peer, "dial", transport.AddrOf(ln.Addr()).String(), file, "eins",
				"zwei drei")
			assert.Equal(t, 0, p.end(t), p.stderr)
			assert.Contains(t, p.stdout.String(), "\neins\nzwei drei\n")
			var bye *transport.GoodbyeError
			assert.ErrorAs(t, <-echoed, &bye)
		})
	})
}

func TestPeer_RefusesAnotherKey(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		l.overEach(t, func(t *testing.T, addr transport.Addr) {
			key, _ := keyFile(t, "k")
			_, file := keyFile(t, "x")
			p, at := l.accepts(t, addr, file)
			_, err := handshake.ConnectPeer(t.Context(), dial(t, at),
				handshake.PeerConfig{Key: key})
			require.ErrorIs(t, err, handshake.ErrBadMAC)
			assert.Equal(t, 1, p.end(t))
			assert.Contains(t, p.stderr.String(), "does not know the key")

			ln := listen(t, addr)
			defer ln.Close()
			echoed := make(chan error, 1)
			go func() { echoed <- echo(t.Context(), ln, key) }()
			p = l.start(t, nil, l.peer, "dial", transport.AddrOf(ln.Addr()).String(), file,
				"secret words")
			assert.Equal(t, 1, p.end(t))
			assert.Contains(t, p.stderr.String(), "does not know the key")
			require.ErrorIs(t, <-echoed, handshake.ErrBadMAC)
		})
	})
}

func TestPeer_ReportsItsVersions(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		_, file := keyFile(t, "k")
		p, addr := l.accepts(t,
			transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}, file)
		conn := dial(t, addr)
		body, err := cbor.Marshal(map[string]any{
			"versions": []int{2, 9}, "id": "test", "name": "", "pid": 1,
			"nonce": make([]byte, 32), "auth": "key",
		})
		require.NoError(t, err)
		frames := transport.New(conn, transport.Config{}).Frames(access.Key{})
		require.NoError(t,
			frames.Write(t.Context(), frame.Frame{Kind: frame.KindGreet, Body: body}))
		for _, want := range []frame.Kind{frame.KindGreet, frame.KindFailed} {
			f, err := frames.Read(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, f.Kind)
			body = f.Body
		}
		var failed struct {
			Code     string
			Versions []int
		}
		require.NoError(t, cbor.Unmarshal(body, &failed))
		assert.Equal(t, "version", failed.Code)
		assert.Equal(t, []int{1, 1}, failed.Versions)
		conn.Close()
		assert.Equal(t, 1, p.end(t))
	})
}

func TestPeer_PythonAndNode(t *testing.T) {
	spawntest.NoLeaks(t)
	for _, pair := range [][2]language{{python, node}, {node, python}} {
		acceptor, dialer := pair[0], pair[1]
		t.Run(dialer.name+" dials "+acceptor.name, func(t *testing.T) {
			python.need(t)
			node.need(t)
			node.overEach(t, func(t *testing.T, addr transport.Addr) {
				_, file := keyFile(t, "k")
				a, at := acceptor.accepts(t, addr, file)
				d := dialer.start(t, nil, dialer.peer, "dial", at.String(), file, "one", "two")
				assert.Equal(t, 0, d.end(t), d.stderr)
				assert.Equal(t, "connected to "+acceptor.name+"\none\ntwo\n", d.stdout.String())
				assert.Equal(t, 0, a.end(t), a.stderr)

				_, other := keyFile(t, "x")
				a, at = acceptor.accepts(t, addr, file)
				d = dialer.start(t, nil, dialer.peer, "dial", at.String(), other, "one")
				assert.Equal(t, 1, d.end(t), d.stderr)
				assert.Equal(t, 1, a.end(t), a.stderr)
			})
		})
	}
}
