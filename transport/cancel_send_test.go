package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

const hugeLimit = 256 << 20

// huge does not fit into the buffers of withStuckPeer.
var huge = sync.OnceValue(func() []byte { return make([]byte, 16<<20) })

// withStuckPeer is withRawPeer with small buffers. Otherwise the kernel would let those of
// a TCP connection grow to tens of megabytes.
func (l link) withStuckPeer(t testing.TB) (*transport.Channel, net.Conn) {
	t.Helper()
	x, y := l.connect(t)
	shrink(t, x, y)
	require.NoError(t, y.SetDeadline(time.Now().Add(testkit.Patience)))
	return open(t, x, transport.Config{MaxFrameSize: hugeLimit}), y
}

// shrink makes the buffers of a connection small.
func shrink(t testing.TB, from, to net.Conn) {
	t.Helper()
	if c, ok := socket(from).(interface{ SetWriteBuffer(int) error }); ok {
		require.NoError(t, c.SetWriteBuffer(64<<10))
	}
	if c, ok := socket(to).(interface{ SetReadBuffer(int) error }); ok {
		require.NoError(t, c.SetReadBuffer(64<<10))
	}
}

// socket returns the connection under TLS, or conn itself.
func socket(conn net.Conn) net.Conn {
	if c, ok := conn.(*tls.Conn); ok {
		return c.NetConn()
	}
	return conn
}

// prefixed is a connection after some of its bytes were read.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.prefix)
	p.prefix = p.prefix[n:]
	return n, nil
}

func TestCancelSend_WithinAFrameBreaksSending(t *testing.T) {
	for _, l := range links() {
		for name, send := range map[string]func(context.Context, *transport.Channel) error{
			"raw bytes": func(ctx context.Context, c *transport.Channel) error {
				return c.SendBytes(ctx, huge())
			},
			"a message": func(ctx context.Context, c *transport.Channel) error {
				return c.Send(ctx, huge())
			},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				t.Parallel()
				c, peer := l.withStuckPeer(t)
				ctx, cancel := context.WithCancelCause(context.Background())
				sent := testkit.Background(t, func() error { return send(ctx, c) })
				prefix := readN(t, peer, 100) // the frame has begun, and does not fit
				start := time.Now()
				cancel(errCause)
				err := sent()
				assert.Less(t, time.Since(start), testkit.Patience)
				require.ErrorIs(t, err, transport.ErrBroken)
				assert.ErrorIs(t, err, context.Canceled)
				assert.ErrorIs(t, err, errCause)

				for range 2 {
					assert.ErrorIs(t, c.Send(testkit.Context(t), 1), transport.ErrBroken)
					assert.ErrorIs(t, c.SendBytes(testkit.Context(t), nil), transport.ErrBroken)
				}
				_, err = c.Ping(testkit.Context(t))
				assert.ErrorIs(t, err, transport.ErrBroken)

				other := open(t, &prefixed{peer, prefix}, transport.Config{MaxFrameSize: hugeLimit})
				answered := testkit.Background(t, func() error {
					return other.Send(testkit.Context(t), "still here")
				})
				var got string
				require.NoError(t, c.Recv(testkit.Context(t), &got), "a broken channel receives")
				require.Equal(t, "still here", got)
				require.NoError(t, answered())
			})
		}
	}
}

func TestCancelSend_PeerOfABrokenChannel(t *testing.T) {
	for _, l := range append([]link{{"TLS", tlsLink}, {"TLS over a Unix socket", tlsUnixLink}},
		sockets...) {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			c, peer := l.withStuckPeer(t)
			ctx, cancel := context.WithCancel(context.Background())
			sent := testkit.Background(t, func() error { return c.SendBytes(ctx, huge()) })
			prefix := readN(t, peer, 100)
			cancel()
			require.ErrorIs(t, sent(), transport.ErrBroken)
			other := open(t, &prefixed{peer, prefix}, transport.Config{MaxFrameSize: hugeLimit})
			_, err := other.RecvBytes(testkit.Context(t), make([]byte, len(huge())))
			require.ErrorIs(t, err, transport.ErrPeerGone)
			assert.Contains(t, err.Error(), "in the middle of a frame")
			assert.Error(t, c.Close(), "no goodbye can be sent")
		})
	}
}

// fill writes to conn until there is no room for a byte, and returns the number of bytes.
func fill(t testing.TB, conn, peer net.Conn) (total int) {
	t.Helper()
	shrink(t, conn, peer)
	chunk := make([]byte, 64<<10)
	for refused := 0; refused < 3; {
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		n, err := conn.Write(chunk)
		total += n
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			chunk = chunk[:1]
			refused++
		}
		if n > 0 {
			refused = 0
		}
	}
	require.NoError(t, conn.SetWriteDeadline(time.Time{}))
	return total
}

func TestCancelSend_BeforeItsFirstByte(t *testing.T) {
	for _, l := range sockets {
		if l.name == "TCP" {
			continue // a full TCP socket has room again a moment later, even without a reader
		}
		for _, size := range []int{10, 100_000} {
			t.Run(fmt.Sprint(l.name, ", ", size), func(t *testing.T) {
				t.Parallel()
				x, peer := l.connect(t)
				filler := fill(t, x, peer)
				c := open(t, x, transport.Config{})
				for range 5 {
					ctx, cancel := context.WithTimeoutCause(context.Background(),
						5*time.Millisecond, errCause)
					err := c.SendBytes(ctx, make([]byte, size))
					cancel()
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.ErrorIs(t, err, errCause)
					require.NotErrorIs(t, err, transport.ErrBroken)
				}
				sent := testkit.Background(t, func() error {
					return c.SendBytes(testkit.Context(t), pattern(1, size))
				})
				readN(t, peer, filler)
				got := readN(t, peer, 5+size)
				require.NoError(t, sent())
				require.True(t, bytes.Equal(frameOf(frame.KindRaw, pattern(1, size)...), got))
			})
		}
	}
}

// A TLS connection may have sent a part of a record when its Write returns 0, and other
// connections are unknown.
func TestCancelSend_UnknownProgressBreaksSending(t *testing.T) {
	for _, l := range []link{{"net.Pipe", testkit.Pipe}, {"TLS over a Unix socket", tlsUnixLink}} {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			x, y := l.connect(t)
			if l.name != "net.Pipe" {
				fill(t, socket(x), socket(y))
			}
			c := open(t, x, transport.Config{})
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			defer cancel()
			err := c.Send(ctx, 1)
			require.ErrorIs(t, err, transport.ErrBroken)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, c.Send(testkit.Context(t), 1), transport.ErrBroken)
		})
	}
}

func TestCancelSend_WhileWaitingForItsTurn(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			c, peer := l.withStuckPeer(t)
			first := testkit.Background(t, func() error {
				return c.SendBytes(testkit.Context(t), huge())
			})
			readN(t, peer, 10)
			for range 20 {
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Microsecond)
				err := c.Send(ctx, "waits")
				cancel()
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, transport.ErrBroken)
			}
			_, err := io.CopyN(io.Discard, peer, int64(5+len(huge())-10))
			require.NoError(t, err)
			require.NoError(t, first())
			sent := testkit.Background(t, func() error { return c.Send(testkit.Context(t), 1) })
			assert.Equal(t, frameOf(frame.KindMessage, 1), readN(t, peer, 6))
			require.NoError(t, sent())
		})
	}
}

func TestCancelSend_ContextHasEnded(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errCause)
	_, pingErr := c.Ping(ctx)
	for _, err := range []error{
		c.Send(ctx, 1), c.SendBytes(ctx, []byte{1}),
		frames(c).Write(ctx, frame.Cancel{}.Frame()), pingErr,
	} {
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, err, errCause)
		assert.NotErrorIs(t, err, transport.ErrBroken)
	}
	require.NoError(t, c.Send(testkit.Context(t), 2))
	assert.Equal(t, frameOf(frame.KindMessage, 2), readN(t, peer, 6))
}
