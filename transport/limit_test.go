package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestMaxFrameSize_Default(t *testing.T) {
	a, b := testkit.Pipe(t)
	c := open(t, a, transport.Config{})
	assert.Equal(t, transport.DefaultMaxFrameSize, c.MaxFrameSize())
	frames(c).SetMaxSize(64 << 10)
	assert.Equal(t, 64<<10, c.MaxFrameSize())
	frames(c).SetMaxSize(0)
	assert.Equal(t, transport.DefaultMaxFrameSize, c.MaxFrameSize())
	frames(c).SetMaxSize(math.MaxInt)
	assert.Equal(t, math.MaxInt32, c.MaxFrameSize(), "a length must fit into 31 bits")
	assert.Equal(t, 100, open(t, b, transport.Config{MaxFrameSize: 100}).MaxFrameSize())
}

func TestMaxFrameSize_LargerFrameIsNotSent(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			ctx := testkit.Context(t)
			c, peer := l.withRawPeer(t, transport.Config{MaxFrameSize: 10_000})
			for name, send := range map[string]func() error{
				// and a CBOR head of 3
				"a message": func() error { return c.Send(ctx, make([]byte, 9_997)) },
				"raw bytes": func() error { return c.SendBytes(ctx, make([]byte, 10_000)) },
				"a frame among others": func() error {
					return frames(c).Write(ctx, frame.Frame{Kind: frame.KindRaw},
						frame.Frame{Kind: frame.KindRaw, Body: make([]byte, 10_000)})
				},
			} {
				err := send()
				var size *transport.SizeError
				require.ErrorAs(t, err, &size, name)
				assert.Equal(t, transport.SizeError{Size: 10_001, Limit: 10_000}, *size, name)
				assert.NotErrorIs(t, err, transport.ErrProtocol, name)
				assert.EqualError(t, err,
					"transport: send: frame of 10001 bytes is over the limit of 10000; nothing was written", name)
			}
			sent := testkit.Background(t, func() error {
				return c.SendBytes(ctx, pattern(1, 9_999))
			})
			got := readN(t, peer, 4+10_000)
			require.NoError(t, sent())
			assert.True(t, bytes.Equal(frameOf(frame.KindRaw, pattern(1, 9_999)...), got))
		})
	}
}

func TestMemory_LengthOverTheLimit(t *testing.T) {
	for _, announced := range []uint32{1<<30 + 1, 1<<32 - 1} {
		for _, kind := range []frame.Kind{frame.KindMessage, frame.KindRaw, frame.KindPing,
			0x7f, frame.KindExtension} {
			t.Run(fmt.Sprint(announced, kind), func(t *testing.T) {
				c, peer := sockets[0].withRawPeer(t, transport.Config{MaxFrameSize: 1 << 30})
				ctx := testkit.Context(t)
				_, err := peer.Write(
					append(binary.LittleEndian.AppendUint32(nil, announced), byte(kind), 1, 2, 3))
				require.NoError(t, err)
				before := allocated()
				err = c.Recv(ctx, new(any))
				assert.Less(t, allocated()-before, uint64(100<<10))
				var size *transport.SizeError
				require.ErrorAs(t, err, &size)
				assert.EqualValues(t, announced, size.Size)
				assert.EqualValues(t, 1<<30, size.Limit)
				assert.ErrorIs(t, err, transport.ErrProtocol)
				assert.EqualError(t, err,
					fmt.Sprintf("transport: receive: peer announced a frame of %d bytes, the limit is 1073741824", announced))
				for range 2 { // it stays so
					assert.ErrorIs(t, c.Recv(ctx, new(any)), transport.ErrProtocol)
					_, err = c.RecvBytes(ctx, nil)
					assert.ErrorIs(t, err, transport.ErrProtocol)
					_, err = frames(c).Read(ctx)
					assert.ErrorIs(t, err, transport.ErrProtocol)
				}
				require.NoError(t, c.Send(ctx, 1), "the other direction works")
				assert.Equal(t, frameOf(frame.KindMessage, 1), readN(t, peer, 6))
			})
		}
	}
}

// allocated returns how many bytes the program has allocated so far.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

func TestMemory_FalseLength(t *testing.T) {
	for name, receive := range map[string]func(*transport.Channel) error{
		"Recv": func(c *transport.Channel) error { return c.Recv(context.Background(), new(any)) },
		"ReadFrame": func(c *transport.Channel) error {
			_, err := frames(c).Read(context.Background())
			return err
		},
	} {
		for _, arrives := range []int{0, 100, 10_000, 100_000, 3 << 20} {
			t.Run(fmt.Sprint(name, " ", arrives), func(t *testing.T) {
				c, peer := sockets[0].withRawPeer(t, transport.Config{MaxFrameSize: 1 << 30})
				data := append(binary.LittleEndian.AppendUint32(nil, 1<<30),
					byte(frame.KindMessage))
				data = append(data, make([]byte, arrives)...)
				wrote := testkit.Background(t, func() error {
					_, err := peer.Write(data)
					return errors.Join(err, peer.Close())
				})
				before := allocated()
				err := receive(c)
				// The buffer doubles, so all buffers together are four times the last one.
				assert.Less(t, allocated()-before, uint64(4*arrives+256<<10))
				require.NoError(t, wrote())
				require.ErrorIs(t, err, transport.ErrPeerGone)
				assert.Contains(t, err.Error(), "in the middle of a frame")
			})
		}
	}
}

func TestProtocolError_LengthZero(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	write(peer, make([]byte, 5))
	err := c.Recv(testkit.Context(t), new(any))
	require.ErrorIs(t, err, transport.ErrProtocol)
	assert.EqualError(t, err, "transport: receive: protocol violation: a frame of length 0")
}

func TestProtocolError_UnknownKind(t *testing.T) {
	known := map[byte]bool{
		0x01: true, 0x02: true, 0x03: true, 0x10: true, 0x11: true, 0x12: true, 0x13: true,
		0x14: true, 0x15: true, 0x16: true,
		0x17: true, 0x18: true, 0x20: true, 0x21: true, 0x22: true, 0x23: true,
		0x24: true, 0x25: true,
	}
	for kind := range byte(0x80) {
		if known[kind] {
			continue
		}
		c, peer := sockets[0].withRawPeer(t, transport.Config{})
		write(peer, frameOf(frame.Kind(kind), 1, 2, 3))
		var err error
		if kind%2 == 0 {
			err = c.Recv(testkit.Context(t), new(any))
		} else {
			_, err = frames(c).Read(testkit.Context(t))
		}
		require.ErrorIs(t, err, transport.ErrProtocol)
		require.EqualError(t, err,
			fmt.Sprintf("transport: receive: protocol violation: unknown kind 0x%02x", kind))
		require.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), transport.ErrProtocol, "for good")
	}
}

func TestProtocolError_HandshakeFrame(t *testing.T) {
	for kind := frame.KindHello; kind <= frame.KindAttached; kind++ {
		c, peer := sockets[0].withRawPeer(t, transport.Config{})
		write(peer, frameOf(kind, 0xa0))
		err := c.Recv(testkit.Context(t), new(any))
		require.ErrorIs(t, err, transport.ErrProtocol)
		require.Contains(t, err.Error(), kind.String())
		require.NotContains(t, err.Error(), "0x")
	}
}

func TestFrames_EveryKindIsRead(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	for kind := frame.Kind(1); kind < frame.KindExtension; kind++ {
		if kind.String()[:2] == "ki" || kind.Shares() { // unknown here
			continue
		}
		require.NoError(t,
			frames(a).Write(ctx, frame.Frame{Kind: kind, Body: []byte{byte(kind), 0xff}}))
		f, err := frames(b).Read(ctx)
		require.NoError(t, err)
		require.Equal(t, frame.Frame{Kind: kind, Body: []byte{byte(kind), 0xff}}, f)
	}
}

func TestFrames_ExtensionsAreSkipped(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	var data []byte
	for kind := 0x80; kind <= 0xff; kind++ {
		data = append(data, frameOf(frame.Kind(kind), pattern(kind, kind*kind)...)...)
		data = append(data, frameOf(frame.KindMessage, 0x18, byte(kind))...)
	}
	write(peer, data)
	for kind := 0x80; kind <= 0xff; kind++ {
		var got int
		require.NoError(t, c.Recv(testkit.Context(t), &got))
		require.Equal(t, kind, got)
	}
}

func TestMemory_HugeExtensionFrame(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	data := append(frameOf(0x99, make([]byte, transport.DefaultMaxFrameSize-1)...),
		frameOf(frame.KindRaw, 'x')...)
	wrote := testkit.Background(t, func() error { _, err := peer.Write(data); return err })
	ctx, buf := testkit.Context(t), make([]byte, 1)
	before := allocated()
	_, err := c.RecvBytes(ctx, buf)
	bound := uint64(1 << 20)
	if raceDetector {
		bound *= 8 // the race detector makes pools drop some of their content
	}
	assert.Less(t, allocated()-before, bound)
	require.NoError(t, err)
	require.NoError(t, wrote())
	assert.Equal(t, "x", string(buf))
}

func TestFrames_SkippingSurvivesACancel(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	data := append(frameOf(0x99, make([]byte, transport.DefaultMaxFrameSize-1)...),
		frameOf(frame.KindRaw, 'x')...)
	wrote := testkit.Background(t, func() error { _, err := peer.Write(data); return err })
	rng := rand.New(rand.NewPCG(1, 1))
	buf := make([]byte, 1)
	for {
		ctx, cancel := context.WithCancel(context.Background())
		spin := rng.IntN(30)
		go func() {
			for range spin {
				runtime.Gosched()
			}
			cancel()
		}()
		if _, err := c.RecvBytes(ctx, buf); err == nil {
			break
		} else {
			require.ErrorIs(t, err, context.Canceled)
		}
	}
	require.NoError(t, wrote())
	assert.Equal(t, "x", string(buf))
}

func TestProtocolError_MalformedControlFrame(t *testing.T) {
	long := make([]byte, 65)
	for name, test := range map[string]struct {
		frame []byte
		want  string
	}{
		"a cancel that is no CBOR":  {frameOf(frame.KindCancel, 0xff), "cancel frame"},
		"an empty cancel":           {frameOf(frame.KindCancel), "cancel frame"},
		"a cancel that is a number": {frameOf(frame.KindCancel, 1), "cancel frame"},
		"a cancel with a number for reason": {frameOf(frame.KindCancel, 0xa1, 0x66, 'r', 'e', 'a',
			's', 'o', 'n', 1), "cancel frame"},
		"a goodbye that is no CBOR": {frameOf(frame.KindGoodbye, 0x1c), "goodbye frame"},
		"an empty goodbye":          {frameOf(frame.KindGoodbye), "goodbye frame"},
		"a goodbye with a text for status": {frameOf(frame.KindGoodbye, 0xa1, 0x66, 's', 't', 'a',
			't', 'u', 's', 0x60), "goodbye frame"},
		"a goodbye with more after it": {frameOf(frame.KindGoodbye, 0xa0, 0xa0),
			"goodbye frame"},
		"a ping of more bytes than a ping's": {frameOf(frame.KindPing, long...),
			"ping of 65 bytes, the limit is 64"},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := sockets[0].withRawPeer(t, transport.Config{})
			frames(c).OnCancel(func(frame.Cancel) { t.Error("called") })
			write(peer, append(test.frame, frameOf(frame.KindMessage, 1)...))
			for range 2 {
				err := c.Recv(testkit.Context(t), new(any))
				require.ErrorIs(t, err, transport.ErrProtocol)
				require.Contains(t, err.Error(), test.want)
				require.NotErrorIs(t, err, io.EOF)
			}
		})
	}
}

func TestOnCancel_RunsInTheReceiver(t *testing.T) {
	var got []frame.Cancel // without a lock, so the race detector finds calls in another goroutine
	x, y := sockets[0].connect(t)
	a := open(t, x, transport.Config{})
	frames(a).OnCancel(func(req frame.Cancel) { got = append(got, req) })
	b := open(t, y, transport.Config{})
	ctx := testkit.Context(t)
	want := frame.Cancel{Reason: "enough", Grace: 5e9}
	require.NoError(t,
		frames(b).Write(ctx, want.Frame(),
			frame.Frame{Kind: frame.KindCancel, Body: []byte{0xa1, 0x61, 'x', 1}}))
	require.NoError(t, b.Send(ctx, "after"))
	require.Empty(t, got, "nobody has received yet")
	var text string
	require.NoError(t, a.Recv(ctx, &text))
	require.Equal(t, []frame.Cancel{want, {}}, got)
	require.Equal(t, "after", text)

	// Without a function the request is ignored.
	require.NoError(t, frames(a).Write(ctx, want.Frame()))
	require.NoError(t, a.Send(ctx, "after"))
	require.NoError(t, b.Recv(ctx, &text))
}

func TestOnCancel_MayCloseTheChannel(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			x, y := l.connect(t)
			a := open(t, x, transport.Config{})
			frames(a).OnCancel(func(frame.Cancel) {
				a.CloseWith(testkit.Context(t), 5, "as asked")
			})
			b := open(t, y, transport.Config{})
			received := testkit.Background(t, func() error {
				return a.Recv(testkit.Context(t), new(any))
			})
			require.NoError(t, frames(b).Write(testkit.Context(t), frame.Cancel{}.Frame()))
			var bye *transport.GoodbyeError
			require.ErrorAs(t, b.Recv(testkit.Context(t), new(any)), &bye)
			assert.Equal(t, transport.GoodbyeError{Status: 5, Reason: "as asked"}, *bye)
			require.ErrorIs(t, received(), transport.ErrChannelClosed)
		})
	}
}

func TestCancel_IsParsedAsItWasEncoded(t *testing.T) {
	for _, want := range []frame.Cancel{{}, {Reason: "why"}, {Grace: 1},
		{Reason: "π", Grace: 1 << 62}} {
		f := want.Frame()
		assert.Equal(t, frame.KindCancel, f.Kind)
		got, err := frame.ParseCancel(f.Body)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err := frame.ParseCancel(nil)
	assert.Error(t, err)
}

func TestFrames_ReadSkipsNoMoreThanTheLimit(t *testing.T) {
	x, y := sockets[0].connect(t)
	a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{MaxFrameSize: 1000})
	extension := frame.Frame{Kind: frame.KindExtension, Body: make([]byte, 400)}
	raw := frame.Frame{Kind: frame.KindRaw}
	for range 3 { // each frame of a known kind sets the count to 0
		require.NoError(t, frames(a).Write(testkit.Context(t), extension, extension, raw))
		_, err := frames(b).Read(testkit.Context(t))
		require.NoError(t, err)
	}
	require.NoError(t, frames(a).Write(testkit.Context(t), extension, extension, extension, raw))
	_, err := frames(b).Read(testkit.Context(t))
	require.ErrorIs(t, err, transport.ErrProtocol)

	// Receives of messages skip any number.
	c, d := sockets[0].channels(t)
	for range 100 {
		require.NoError(t, frames(c).Write(testkit.Context(t), extension))
	}
	require.NoError(t, c.Send(testkit.Context(t), 1))
	frames(d).SetMaxSize(1000)
	require.NoError(t, d.Recv(testkit.Context(t), new(any)))
}
