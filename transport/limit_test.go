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

	"github.com/spawnwire/spawnwire/transport"
)

func TestTheLimitIsADefaultUntilItIsSet(t *testing.T) {
	a, b := pipeLink(t)
	c := open(t, a, transport.Config{})
	assert.Equal(t, transport.DefaultLimit, c.Limit())
	c.SetLimit(64 << 10)
	assert.Equal(t, 64<<10, c.Limit())
	c.SetLimit(0)
	assert.Equal(t, transport.DefaultLimit, c.Limit())
	c.SetLimit(math.MaxInt)
	assert.Equal(t, math.MaxInt32, c.Limit(), "a length must fit into 31 bits")
	assert.Equal(t, 100, open(t, b, transport.Config{Limit: 100}).Limit())
}

func TestAFrameOverTheLimitIsNotSentAndTheChannelWorksOn(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			ctx := soon(t)
			c, peer := l.withRawPeer(t, transport.Config{Limit: 10_000})
			for name, send := range map[string]func() error{
				"a message": func() error { return c.Send(ctx, make([]byte, 9_997)) }, // and 3 of its CBOR head
				"raw bytes": func() error { return c.SendBytes(ctx, make([]byte, 10_000)) },
				"a frame among others": func() error {
					return c.WriteFrames(ctx, transport.Frame{Kind: transport.KindRaw}, transport.Frame{Kind: transport.KindRaw, Body: make([]byte, 10_000)})
				},
			} {
				err := send()
				var size *transport.SizeError
				require.ErrorAs(t, err, &size, name)
				assert.Equal(t, transport.SizeError{Size: 10_001, Limit: 10_000}, *size, name)
				assert.NotErrorIs(t, err, transport.ErrProtocol, name)
				assert.EqualError(t, err, "transport: send: frame of 10001 bytes is over the limit of 10000; nothing was written", name)
			}
			sent := background(t, func() error { return c.SendBytes(ctx, pattern(1, 9_999)) })
			got := readN(t, peer, 4+10_000)
			require.NoError(t, sent())
			assert.True(t, bytes.Equal(frame(transport.KindRaw, pattern(1, 9_999)...), got))
		})
	}
}

func TestALengthOverTheLimitEndsReceivingBeforeAByteIsAllocated(t *testing.T) {
	for _, announced := range []uint32{1<<30 + 1, 1<<32 - 1} {
		for _, kind := range []transport.Kind{transport.KindMessage, transport.KindRaw, transport.KindPing, 0x7f, transport.KindExtension} {
			t.Run(fmt.Sprint(announced, kind), func(t *testing.T) {
				c, peer := sockets[0].withRawPeer(t, transport.Config{Limit: 1 << 30})
				ctx := soon(t)
				_, err := peer.Write(append(binary.LittleEndian.AppendUint32(nil, announced), byte(kind), 1, 2, 3))
				require.NoError(t, err)
				before := allocated()
				err = c.Recv(ctx, new(any))
				assert.Less(t, allocated()-before, uint64(100<<10))
				var size *transport.SizeError
				require.ErrorAs(t, err, &size)
				assert.Equal(t, transport.SizeError{Size: int64(announced), Limit: 1 << 30, Received: true}, *size)
				assert.ErrorIs(t, err, transport.ErrProtocol)
				assert.EqualError(t, err, fmt.Sprintf("transport: receive: peer announced a frame of %d bytes, the limit is 1073741824", announced))
				for range 2 { // for good
					assert.ErrorIs(t, c.Recv(ctx, new(any)), transport.ErrProtocol)
					_, err = c.RecvBytes(ctx, nil)
					assert.ErrorIs(t, err, transport.ErrProtocol)
					_, err = c.ReadFrame(ctx)
					assert.ErrorIs(t, err, transport.ErrProtocol)
				}
				require.NoError(t, c.Send(ctx, 1), "the other direction works")
				assert.Equal(t, frame(transport.KindMessage, 1), readN(t, peer, 6))
			})
		}
	}
}

// allocated is how many bytes the program has ever allocated.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

func TestALyingLengthCostsNoMoreMemoryThanWhatArrives(t *testing.T) {
	for name, receive := range map[string]func(*transport.Channel) error{
		"Recv":      func(c *transport.Channel) error { return c.Recv(context.Background(), new(any)) },
		"ReadFrame": func(c *transport.Channel) error { _, err := c.ReadFrame(context.Background()); return err },
	} {
		for _, arrives := range []int{0, 100, 10_000, 100_000, 3 << 20} {
			t.Run(fmt.Sprint(name, " ", arrives), func(t *testing.T) {
				c, peer := sockets[0].withRawPeer(t, transport.Config{Limit: 1 << 30})
				data := append(binary.LittleEndian.AppendUint32(nil, 1<<30), byte(transport.KindMessage))
				data = append(data, make([]byte, arrives)...)
				wrote := background(t, func() error {
					_, err := peer.Write(data)
					return errors.Join(err, peer.Close())
				})
				before := allocated()
				err := receive(c)
				// The buffer doubles: all of them together are four times what the last one needs.
				assert.Less(t, allocated()-before, uint64(4*arrives+256<<10))
				require.NoError(t, wrote())
				require.ErrorIs(t, err, transport.ErrPeerGone)
				assert.Contains(t, err.Error(), "in the middle of a frame")
			})
		}
	}
}

func TestAFrameOfLengthZeroIsAProtocolError(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	write(peer, make([]byte, 5))
	err := c.Recv(soon(t), new(any))
	require.ErrorIs(t, err, transport.ErrProtocol)
	assert.EqualError(t, err, "transport: receive: protocol violation: a frame of length 0")
}

func TestAnUnknownKindBelow0x80IsAProtocolErrorThatNamesIt(t *testing.T) {
	known := map[byte]bool{
		0x01: true, 0x02: true, 0x10: true, 0x11: true, 0x12: true, 0x13: true, 0x14: true, 0x15: true, 0x16: true,
		0x17: true, 0x20: true, 0x21: true, 0x22: true, 0x23: true,
	}
	for kind := range byte(0x80) {
		if known[kind] {
			continue
		}
		c, peer := sockets[0].withRawPeer(t, transport.Config{})
		write(peer, frame(transport.Kind(kind), 1, 2, 3))
		var err error
		if kind%2 == 0 {
			err = c.Recv(soon(t), new(any))
		} else {
			_, err = c.ReadFrame(soon(t))
		}
		require.ErrorIs(t, err, transport.ErrProtocol)
		require.EqualError(t, err, fmt.Sprintf("transport: receive: protocol violation: unknown kind 0x%02x", kind))
		require.ErrorIs(t, c.Recv(soon(t), new(any)), transport.ErrProtocol, "for good")
	}
}

func TestAHandshakeFrameOnAnOpenChannelIsAProtocolErrorThatNamesIt(t *testing.T) {
	for kind := transport.KindHello; kind <= transport.KindAttach; kind++ {
		c, peer := sockets[0].withRawPeer(t, transport.Config{})
		write(peer, frame(kind, 0xa0))
		err := c.Recv(soon(t), new(any))
		require.ErrorIs(t, err, transport.ErrProtocol)
		require.Contains(t, err.Error(), kind.String())
		require.NotContains(t, err.Error(), "0x")
	}
}

func TestEveryFrameCanBeReadAsItIs(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := soon(t)
	for kind := transport.Kind(1); kind < transport.KindExtension; kind++ {
		if kind.String()[:2] == "ki" { // unknown
			continue
		}
		require.NoError(t, a.WriteFrames(ctx, transport.Frame{Kind: kind, Body: []byte{byte(kind), 0xff}}))
		f, err := b.ReadFrame(ctx)
		require.NoError(t, err)
		require.Equal(t, transport.Frame{Kind: kind, Body: []byte{byte(kind), 0xff}}, f)
	}
}

func TestExtensionKindsAreSkipped(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	var data []byte
	for kind := 0x80; kind <= 0xff; kind++ {
		data = append(data, frame(transport.Kind(kind), pattern(kind, kind*kind)...)...)
		data = append(data, frame(transport.KindMessage, 0x18, byte(kind))...)
	}
	write(peer, data)
	for kind := 0x80; kind <= 0xff; kind++ {
		var got int
		require.NoError(t, c.Recv(soon(t), &got))
		require.Equal(t, kind, got)
	}
}

func TestAHugeExtensionFrameIsSkippedWithoutBeingStored(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	data := append(frame(0x99, make([]byte, transport.DefaultLimit-1)...), frame(transport.KindRaw, 'x')...)
	wrote := background(t, func() error { _, err := peer.Write(data); return err })
	ctx, buf := soon(t), make([]byte, 1)
	before := allocated()
	_, err := c.RecvBytes(ctx, buf)
	bound := uint64(1 << 20)
	if raceDetector {
		bound *= 8 // it makes a pool forget what it is given, now and then
	}
	assert.Less(t, allocated()-before, bound)
	require.NoError(t, err)
	require.NoError(t, wrote())
	assert.Equal(t, "x", string(buf))
}

func TestAHugeExtensionFrameIsSkippedAlsoWhenCancelledHalfWay(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	data := append(frame(0x99, make([]byte, transport.DefaultLimit-1)...), frame(transport.KindRaw, 'x')...)
	wrote := background(t, func() error { _, err := peer.Write(data); return err })
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

func TestMalformedControlFramesAreProtocolErrors(t *testing.T) {
	long := make([]byte, 65)
	for name, test := range map[string]struct {
		frame []byte
		want  string
	}{
		"a cancel that is no CBOR":           {frame(transport.KindCancel, 0xff), "cancel frame"},
		"an empty cancel":                    {frame(transport.KindCancel), "cancel frame"},
		"a cancel that is a number":          {frame(transport.KindCancel, 1), "cancel frame"},
		"a cancel with a number for reason":  {frame(transport.KindCancel, 0xa1, 0x66, 'r', 'e', 'a', 's', 'o', 'n', 1), "cancel frame"},
		"a goodbye that is no CBOR":          {frame(transport.KindGoodbye, 0x1c), "goodbye frame"},
		"an empty goodbye":                   {frame(transport.KindGoodbye), "goodbye frame"},
		"a goodbye with a text for status":   {frame(transport.KindGoodbye, 0xa1, 0x66, 's', 't', 'a', 't', 'u', 's', 0x60), "goodbye frame"},
		"a goodbye with more behind it":      {frame(transport.KindGoodbye, 0xa0, 0xa0), "goodbye frame"},
		"a ping of more bytes than a ping's": {frame(transport.KindPing, long...), "ping of 65 bytes, the limit is 64"},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := sockets[0].withRawPeer(t, transport.Config{OnCancel: func(transport.Cancel) { t.Error("called") }})
			write(peer, append(test.frame, frame(transport.KindMessage, 1)...))
			for range 2 {
				err := c.Recv(soon(t), new(any))
				require.ErrorIs(t, err, transport.ErrProtocol)
				require.Contains(t, err.Error(), test.want)
				require.NotErrorIs(t, err, io.EOF)
			}
		})
	}
}

func TestOnCancelRunsInTheReceiversOwnGoroutine(t *testing.T) {
	var got []transport.Cancel // no lock: the race detector sees it if another goroutine calls
	x, y := sockets[0].connect(t)
	a := open(t, x, transport.Config{OnCancel: func(req transport.Cancel) { got = append(got, req) }})
	b := open(t, y, transport.Config{})
	ctx := soon(t)
	want := transport.Cancel{Reason: "enough", Grace: 5e9}
	require.NoError(t, b.WriteFrames(ctx, want.Frame(), transport.Frame{Kind: transport.KindCancel, Body: []byte{0xa1, 0x61, 'x', 1}}))
	require.NoError(t, b.Send(ctx, "after"))
	require.Empty(t, got, "nobody has received yet")
	var text string
	require.NoError(t, a.Recv(ctx, &text))
	require.Equal(t, []transport.Cancel{want, {}}, got)
	require.Equal(t, "after", text)

	// Without a function it is ignored.
	require.NoError(t, a.WriteFrames(ctx, want.Frame()))
	require.NoError(t, a.Send(ctx, "after"))
	require.NoError(t, b.Recv(ctx, &text))
}

func TestOnCancelMayCloseTheChannel(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			x, y := l.connect(t)
			var a *transport.Channel
			a = open(t, x, transport.Config{OnCancel: func(transport.Cancel) { a.CloseWith(soon(t), 5, "as asked") }})
			b := open(t, y, transport.Config{})
			received := background(t, func() error { return a.Recv(soon(t), new(any)) })
			require.NoError(t, b.WriteFrames(soon(t), transport.Cancel{}.Frame()))
			var bye *transport.GoodbyeError
			require.ErrorAs(t, b.Recv(soon(t), new(any)), &bye)
			assert.Equal(t, transport.GoodbyeError{Status: 5, Reason: "as asked"}, *bye)
			require.ErrorIs(t, received(), transport.ErrClosed)
		})
	}
}

func TestParseCancelReadsWhatFrameWrites(t *testing.T) {
	for _, want := range []transport.Cancel{{}, {Reason: "why"}, {Grace: 1}, {Reason: "π", Grace: 1 << 62}} {
		f := want.Frame()
		assert.Equal(t, transport.KindCancel, f.Kind)
		got, err := transport.ParseCancel(f.Body)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err := transport.ParseCancel(nil)
	assert.Error(t, err)
}

func TestReadFrameSkipsNoMoreThanTheLimit(t *testing.T) {
	x, y := sockets[0].connect(t)
	a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{Limit: 1000})
	extension := transport.Frame{Kind: transport.KindExtension, Body: make([]byte, 400)}
	raw := transport.Frame{Kind: transport.KindRaw}
	for range 3 { // the count begins anew with each frame of a known kind
		require.NoError(t, a.WriteFrames(soon(t), extension, extension, raw))
		_, err := b.ReadFrame(soon(t))
		require.NoError(t, err)
	}
	require.NoError(t, a.WriteFrames(soon(t), extension, extension, extension, raw))
	_, err := b.ReadFrame(soon(t))
	require.ErrorIs(t, err, transport.ErrProtocol)

	// Messages may have any number of them in between.
	c, d := sockets[0].channels(t)
	for range 100 {
		require.NoError(t, c.WriteFrames(soon(t), extension))
	}
	require.NoError(t, c.Send(soon(t), 1))
	d.SetLimit(1000)
	require.NoError(t, d.Recv(soon(t), new(any)))
}
