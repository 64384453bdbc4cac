package handshake_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tls"
	"github.com/spawnwire/spawnwire/transport/uds"
)

var errTimeout = os.ErrDeadlineExceeded

// patience is how long a test waits for a short operation before it reports a hang.
const patience = 60 * time.Second

// enough is a time limit of the code under test. A test waits until it expires,
// and other steps of the test must happen before it does.
const enough = 3 * time.Second

// link is one way to reach a listener.
type link struct {
	name   string
	listen func(testing.TB) net.Listener
}

var networks = []link{{"a Unix socket", listenUnix}, {"TCP", listenTCP}, {"TLS", listenTLS}}

func listenUnix(t testing.TB) net.Listener {
	t.Helper()
	dir, err := unixsock.NewDir()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dir.Remove()) })
	ln, err := uds.Listen(testkit.Context(t),
		transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("l")})
	require.NoError(t, err)
	return ln
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return ln
}

func listenTLS(t testing.TB) net.Listener {
	t.Helper()
	ln, err := tls.Transport{}.Listen(testkit.Context(t),
		transport.Addr{Scheme: transport.SchemeTLS, Target: "127.0.0.1:0"})
	require.NoError(t, err)
	return ln
}

// overNetworks runs a test over all networks at once, after the calling test has
// returned. Most of the time these tests wait.
func overNetworks(t *testing.T, test func(*testing.T, link)) {
	for _, n := range networks {
		t.Run("over "+n.name, func(t *testing.T) {
			t.Parallel()
			test(t, n)
		})
	}
}

// listen starts a parent that logs each refusal. A cleanup closes the parent and
// checks that it then holds nothing.
func listen(t testing.TB, n link, cfg handshake.ListenerConfig) *handshake.Listener {
	t.Helper()
	l, err := handshake.Listen(n.listen(t), cfg)
	require.NoError(t, err)
	l.LogEveryRefusal()
	t.Cleanup(func() {
		l.Close()
		assert.Equal(t, handshake.Held{}, l.Held())
	})
	return l
}

// overUnix calls listen for tests that do not depend on the network.
func overUnix(t testing.TB, cfg handshake.ListenerConfig) *handshake.Listener {
	t.Helper()
	return listen(t, networks[0], cfg)
}

// expect registers a child and returns its ticket. The child may be any process
// unless the test calls SetPID again.
func expect(
	t testing.TB, l *handshake.Listener, spec []byte,
) (*handshake.Expected, handshake.Ticket) {
	t.Helper()
	x, err := l.Expect(handshake.Expectation{Spec: spec})
	require.NoError(t, err)
	ticket := x.Ticket()
	x.SetPID(0)
	t.Cleanup(x.Cancel)
	return x, ticket
}

// dial connects to a parent or any other listener.
func dial(t testing.TB, addr transport.Addr) net.Conn {
	t.Helper()
	conn, err := dialAddr(testkit.Context(t), addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func dialAddr(ctx context.Context, addr transport.Addr) (net.Conn, error) {
	if addr.Scheme == transport.SchemeTLS {
		return tls.Transport{}.Dial(ctx, addr)
	}
	return new(net.Dialer).DialContext(ctx, addr.Network(), addr.Target)
}

// join makes the child's side of the handshake until the child has its spec.
func join(t testing.TB, ticket handshake.Ticket, cfg handshake.JoinConfig) *handshake.Joined {
	t.Helper()
	j, err := handshake.Join(testkit.Context(t), dial(t, ticket.Addr), ticket, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { j.Channel.Abort() })
	return j
}

// joinReady joins and sends ready.
func joinReady(t testing.TB, ticket handshake.Ticket, cfg handshake.JoinConfig) *handshake.Joined {
	t.Helper()
	j := join(t, ticket, cfg)
	require.NoError(t, j.Ready(testkit.Context(t), nil))
	return j
}

func wait(t testing.TB, x *handshake.Expected) *handshake.Peer {
	t.Helper()
	peer, err := x.WaitForPeer(testkit.Context(t))
	require.NoError(t, err)
	t.Cleanup(func() { peer.Abort() })
	return peer
}

// requireJoins checks that the parent accepts a child with the ticket, and that
// the child's messages arrive.
func requireJoins(t testing.TB, x *handshake.Expected, ticket handshake.Ticket) {
	t.Helper()
	ctx := testkit.Context(t)
	j := joinReady(t, ticket, handshake.JoinConfig{})
	peer := wait(t, x)
	require.NoError(t, j.Channel.Send(ctx, "up"))
	requireReceives(t, peer.Channel, "up")
	leave(t, peer, j.Channel)
	require.NoError(t, j.Channel.Abort())
}

// leave closes the parent's end while the child waits for a message.
func leave(t testing.TB, peer *handshake.Peer, child *transport.Channel) {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- peer.Close() }()
	require.ErrorAs(t, child.Recv(testkit.Context(t), new(any)), new(*transport.GoodbyeError))
	require.NoError(t, <-closed)
}

func requireReceives(t testing.TB, ch *transport.Channel, want string) {
	t.Helper()
	var got string
	require.NoError(t, ch.Recv(testkit.Context(t), &got))
	require.Equal(t, want, got)
}

// requireGone checks that the other side has closed or cut the channel.
func requireGone(t testing.TB, ch *transport.Channel) {
	t.Helper()
	err := ch.Recv(testkit.Context(t), new(any))
	require.Error(t, err)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

// ends returns two connected ends of a network.
func (n link) ends(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln := n.listen(t)
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if conn, err := ln.Accept(); err == nil && network.Secure(testkit.Context(t), conn) == nil {
			accepted <- conn
		}
	}()
	a = dial(t, transport.AddrOf(ln.Addr()))
	b = <-accepted
	require.NotNil(t, b)
	t.Cleanup(func() { b.Close() })
	return a, b
}

// The functions below implement the wire format of docs/PROTOCOL.md without the
// package under test.

// frameOf returns the bytes of a frame.
func frameOf(kind frame.Kind, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)+1))
	return append(append(b, byte(kind)), body...)
}

// readFrame reads one frame. It returns the errors of the connection unchanged.
func readFrame(conn net.Conn) (frame.Kind, []byte, error) {
	var header [5]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.LittleEndian.Uint32(header[:])-1)
	_, err := io.ReadFull(conn, body)
	return frame.Kind(header[4]), body, err
}

func requireFrame(t testing.TB, conn net.Conn, want frame.Kind) []byte {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	kind, body, err := readFrame(conn)
	require.NoError(t, err)
	require.Equal(t, want, kind)
	return body
}

func proof(key []byte, label string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(append([]byte(label), 0))
	for _, p := range parts {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

func sealed(t testing.TB, key []byte, label string, payload []byte, said ...[]byte) []byte {
	t.Helper()
	return encoded(t, []any{payload, proof(key, label, append(said, payload)...)})
}

func encoded(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	require.NoError(t, err)
	return b
}

// fields maps the names of a message's fields on the wire to their values.
type fields = map[string]any

// helloFields returns the fields of a good hello.
func helloFields(id string) fields {
	return fields{"versions": []int{1, 1}, "id": id, "name": "child", "pid": 7,
		"nonce": make([]byte, 32)}
}

// helloFrame returns a hello sealed with the ticket's secret.
func helloFrame(t testing.TB, ticket handshake.Ticket, msg fields) []byte {
	t.Helper()
	return frameOf(frame.KindHello, sealed(t, ticket.Secret(), "spawnwire hello", encoded(t, msg)))
}

// requireRefused checks that the other side sends a refusal without a reason, then
// a goodbye, and closes.
func requireRefused(t testing.TB, conn net.Conn) {
	t.Helper()
	requireRefusal(t, conn)
	requireFrame(t, conn, frame.KindGoodbye)
	requireEnd(t, conn)
}

// requireDropped is like requireRefused, for a client that has not sent a complete
// hello. The other side no longer waits for it, and sends no goodbye. Over TLS, it
// may close without a frame if it had not finished the TLS handshake.
func requireDropped(t testing.TB, conn net.Conn) {
	t.Helper()
	if _, over := conn.(interface{ NetConn() net.Conn }); over {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		said, err := io.ReadAll(conn)
		require.NotErrorIs(t, err, errTimeout)
		if len(said) > 0 {
			assert.Equal(t, byte(frame.KindFailed), said[4], "%x", said)
		}
		return
	}
	requireRefusal(t, conn)
	requireEnd(t, conn)
}

func requireEnd(t testing.TB, conn net.Conn) {
	t.Helper()
	_, _, err := readFrame(conn)
	require.Error(t, err)
	require.NotErrorIs(t, err, errTimeout)
}

func requireRefusal(t testing.TB, conn net.Conn) {
	t.Helper()
	body := requireFrame(t, conn, frame.KindFailed)
	var f fields
	require.NoError(t, cbor.Unmarshal(body, &f))
	require.Equal(t, fields{"phase": "auth", "code": "refused", "error": "not accepted"}, f)
}

// logbook is a slog.Handler. A test can read its entries and wait for them.
type logbook struct {
	mu      sync.Mutex // guards the fields below
	entries []entry
	written chan struct{} // closed and replaced with each entry
}

type entry struct {
	at      time.Time
	message string
	attrs   map[string]string
}

func newLogbook() *logbook { return &logbook{written: make(chan struct{})} }

func (b *logbook) logger() *slog.Logger { return slog.New(b) }

func (b *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logbook) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *logbook) WithGroup(string) slog.Handler            { return b }
func (b *logbook) Handle(_ context.Context, r slog.Record) error {
	e := entry{r.Time, r.Message, make(map[string]string)}
	r.Attrs(func(a slog.Attr) bool {
		e.attrs[a.Key] = a.Value.String()
		return true
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = append(b.entries, e)
	close(b.written)
	b.written = make(chan struct{})
	return nil
}

// await waits until at least n entries have the message, and returns all of them.
func (b *logbook) await(ctx context.Context, n int, message string) ([]entry, error) {
	for {
		b.mu.Lock()
		var found []entry
		for _, e := range b.entries {
			if e.message == message {
				found = append(found, e)
			}
		}
		written := b.written
		b.mu.Unlock()
		if len(found) >= n {
			return found, nil
		}
		select {
		case <-written:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d entries of %q in the log, want %d", len(found), message, n)
		}
	}
}

func (b *logbook) with(t testing.TB, n int, message string) []entry {
	t.Helper()
	found, err := b.await(testkit.Context(t), n, message)
	require.NoError(t, err)
	return found
}

const (
	saysRefused      = "handshake: refused a connection"
	saysAcceptFailed = "handshake: accept failed, trying again"
	saysFailed       = "handshake: a child's handshake failed"
)

// refusals waits until n refused connections are logged and returns the reasons.
func (b *logbook) refusals(t testing.TB, n int) []string {
	t.Helper()
	var reasons []string
	for _, e := range b.with(t, n, saysRefused) {
		reasons = append(reasons, e.attrs["reason"])
	}
	return reasons
}
