package transport_test

import (
	"context"
	"encoding/hex"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestFrames_AreTheBytesOfTheProtocol(t *testing.T) {
	ctx := context.Background()
	for name, test := range map[string]struct {
		send func(*transport.Channel) error
		want string
	}{
		"a text message": {
			func(c *transport.Channel) error { return c.Send(ctx, "hello") },
			"07000000 01 65 68656c6c6f",
		},
		"a message of nothing": {
			func(c *transport.Channel) error { return c.Send(ctx, nil) },
			"02000000 01 f6",
		},
		"a struct with a time to the nanosecond": {
			func(c *transport.Channel) error {
				return c.Send(ctx, struct {
					At time.Time `cbor:"at"`
				}{time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)})
			},
			"26000000 01 a1 626174 c0 781e" +
				hex.EncodeToString([]byte("2026-01-02T03:04:05.000000006Z")),
		},
		"raw bytes": {
			func(c *transport.Channel) error { return c.SendBytes(ctx, []byte("abc")) },
			"04000000 02 616263",
		},
		"no raw bytes": {
			func(c *transport.Channel) error { return c.SendBytes(ctx, nil) },
			"01000000 02",
		},
		"raw bytes that are not copied": {
			func(c *transport.Channel) error { return c.SendBytes(ctx, make([]byte, 70000)) },
			"71110100 02" + strings.Repeat("00", 70000),
		},
		"a cancel": {
			func(c *transport.Channel) error {
				return frames(c).Write(ctx,
					frame.Cancel{Reason: "stop", Grace: time.Second}.Frame())
			},
			"19000000 20 a2 66 726561736f6e 64 73746f70 65 6772616365 1a3b9aca00",
		},
		"a cancel that says nothing": {
			func(c *transport.Channel) error {
				return frames(c).Write(ctx, frame.Cancel{}.Frame())
			},
			"02000000 20 a0",
		},
		"several frames in one write": {
			func(c *transport.Channel) error {
				return frames(c).Write(ctx,
					frame.Frame{Kind: frame.KindWelcome, Body: []byte{1}},
					frame.Frame{Kind: frame.KindSpec, Body: []byte{2, 3}})
			},
			"02000000 11 01  03000000 12 0203",
		},
		"a goodbye": {
			func(c *transport.Channel) error { return c.Close() },
			"0a000000 21 a1 66 737461747573 00",
		},
		"a goodbye with status and reason": {
			func(c *transport.Channel) error { return c.CloseWith(ctx, 3, "x") },
			"13000000 21 a2 66 737461747573 03 66 726561736f6e 61 78",
		},
		"a goodbye with a negative status": {
			func(c *transport.Channel) error { return c.CloseWith(ctx, -1, "") },
			"0a000000 21 a1 66 737461747573 20",
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := hex.DecodeString(strings.ReplaceAll(test.want, " ", ""))
			require.NoError(t, err)
			for _, l := range links() {
				t.Run(l.name, func(t *testing.T) {
					c, peer := l.withRawPeer(t, transport.Config{})
					sent := testkit.Background(t, func() error { return test.send(c) })
					assert.Equal(t, hex.EncodeToString(want),
						hex.EncodeToString(readN(t, peer, len(want))))
					if half, ok := peer.(interface{ CloseWrite() error }); ok {
						half.CloseWrite() // as after a goodbye
					}
					require.NoError(t, sent())
					write(peer, nil)
					c.Abort()
					n, err := peer.Read(make([]byte, 1))
					assert.Zero(t, n, "more than the frame was written")
					assert.Error(t, err)
				})
			}
		})
	}
}

func TestFrames_NoneAreNoWrite(t *testing.T) {
	for _, l := range links() {
		c, _ := l.withRawPeer(t, transport.Config{})
		require.NoError(t, frames(c).Write(testkit.Context(t)), l.name)
	}
}

func TestPing_BytesOnTheWire(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	received := testkit.Background(t, func() error { return c.Recv(testkit.Context(t), new(any)) })

	pinged := testkit.Background(t, func() error {
		_, err := c.Ping(testkit.Context(t))
		return err
	})
	ping := readN(t, peer, 13)
	assert.Equal(t, []byte{9, 0, 0, 0, 0x22}, ping[:5])
	_, err := peer.Write(frameOf(frame.KindPong, ping[5:]...))
	require.NoError(t, err)
	require.NoError(t, pinged())

	_, err = peer.Write(frameOf(frame.KindPing, 'a', 'n', 'y'))
	require.NoError(t, err)
	assert.Equal(t, frameOf(frame.KindPong, 'a', 'n', 'y'), readN(t, peer, 8))
	c.Abort()
	require.ErrorIs(t, received(), transport.ErrChannelClosed)
}

// countingConn counts calls on a connection. A channel copies bodies for a connection of an
// unknown type.
type countingConn struct {
	net.Conn
	reads, writes atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestFrames_OneWriteEach(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			x, y := l.connect(t)
			counting := &countingConn{Conn: x}
			a, b := open(t, counting, transport.Config{}), open(t, y, transport.Config{})
			ctx := testkit.Context(t)
			for _, size := range []int{0, 1, 100, 8 << 10, 8<<10 + 1, 100 << 10, 3 << 20} {
				sent := testkit.Background(t, func() int64 {
					before := counting.writes.Load()
					require.NoError(t, a.SendBytes(ctx, make([]byte, size)))
					return counting.writes.Load() - before
				})
				_, err := b.RecvBytes(ctx, make([]byte, size))
				require.NoError(t, err)
				assert.EqualValues(t, 1, sent(), "raw bytes: %d", size)

				sent = testkit.Background(t, func() int64 {
					before := counting.writes.Load()
					require.NoError(t, a.Send(ctx, make([]byte, size)))
					return counting.writes.Load() - before
				})
				require.NoError(t, b.Recv(ctx, new([]byte)))
				assert.EqualValues(t, 1, sent(), "message of %d bytes", size)
			}
			before := counting.writes.Load()
			body := make([]byte, 9000)
			require.NoError(t,
				frames(a).Write(ctx, frame.Frame{Kind: frame.KindRaw, Body: body},
					frame.Frame{Kind: frame.KindRaw, Body: body}))
			assert.EqualValues(t, 1, counting.writes.Load()-before)
		})
	}
}

func TestMessages_SmallOnesShareARead(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			x, y := l.connect(t)
			counting := &countingConn{Conn: y}
			a, b := open(t, x, transport.Config{}), open(t, counting, transport.Config{})
			ctx := testkit.Context(t)

			require.NoError(t, a.Send(ctx, "prefix and body"))
			require.NoError(t, b.Recv(ctx, new(string)))
			assert.EqualValues(t, 1, counting.reads.Load())

			require.NoError(t, a.SendBytes(ctx, make([]byte, 4000)))
			_, err := b.RecvBytes(ctx, make([]byte, 4000))
			require.NoError(t, err)
			assert.EqualValues(t, 2, counting.reads.Load())

			for range 10 {
				require.NoError(t, a.Send(ctx, "small"))
			}
			for range 10 {
				require.NoError(t, b.Recv(ctx, new(string)))
			}
			assert.LessOrEqual(t, counting.reads.Load(), int64(3),
				"what has arrived together is read together")
		})
	}
}
