package transport_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// sizes has the sizes of bodies around the borders of the implementation. These are the read
// buffers with and without a header, the doublings of a buffer, and the default limit.
var sizes = []int{
	0, 1, 23, 8187, 8188, 8191, 8192, 8193, 8197, 64<<10 - 1, 64 << 10,
	64<<10 + 1, 128<<10 + 1, 1 << 20,
	transport.DefaultMaxFrameSize - 1,
}

func TestMessages_RawOfAnySize(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			ctx := testkit.Context(t)
			buf := make([]byte, transport.DefaultMaxFrameSize)
			for _, pair := range [][2]*transport.Channel{{a, b}, {b, a}} {
				from, to := pair[0], pair[1]
				for i, size := range sizes {
					want := pattern(i, size)
					sent := testkit.Background(t, func() error { return from.SendBytes(ctx, want) })
					n, err := to.RecvBytes(ctx, buf)
					require.NoError(t, err)
					require.NoError(t, sent())
					require.True(t, bytes.Equal(want, buf[:n]), "%d bytes", size)

					if l.name == ringName && size >= 64<<10 {
						continue // it is in shared memory, which no handshake reads
					}
					sent = testkit.Background(t, func() error { return from.SendBytes(ctx, want) })
					f, err := frames(to).Read(ctx)
					require.NoError(t, err)
					require.NoError(t, sent())
					require.Equal(t, frame.KindRaw, f.Kind)
					require.True(t, bytes.Equal(want, f.Body), "%d bytes", size)
				}
			}
		})
	}
}

func TestMessages_CBOROfAnySize(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			ctx := testkit.Context(t)
			for _, pair := range [][2]*transport.Channel{{a, b}, {b, a}} {
				from, to := pair[0], pair[1]
				for i, size := range sizes {
					want := pattern(i, max(0, size-5)) // the CBOR head has up to 5 bytes
					sent := testkit.Background(t, func() error { return from.Send(ctx, want) })
					var got []byte
					require.NoError(t, to.Recv(ctx, &got))
					require.NoError(t, sent())
					require.True(t, bytes.Equal(want, got), "%d bytes", size)
				}
			}
		})
	}
}

type order struct {
	Name  string            `cbor:"name"`
	At    time.Time         `cbor:"at"`
	Tags  map[string]int    `cbor:"tags,omitempty"`
	Rest  cbor.RawMessage   `cbor:"rest,omitempty"`
	Blob  []byte            `cbor:"blob,omitempty"`
	Inner *order            `cbor:"inner,omitempty"`
	Env   map[string]string `cbor:"env,omitempty"`
}

func TestMessages_AnyValue(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	zone := time.FixedZone("", 2*60*60)

	t.Run("a struct in a struct", func(t *testing.T) {
		want := order{
			Name: "π", At: time.Date(2026, 2, 3, 4, 5, 6, 789012345, time.UTC),
			Tags: map[string]int{"a": 1, "b": -2},
			Rest: cbor.RawMessage{0x82, 0x01, 0x02}, Blob: []byte{0, 255},
			Inner: &order{At: time.Date(2026, 2, 3, 4, 5, 6, 1, time.UTC)},
		}
		roundTrip(t, a, b, want)
	})
	t.Run("a time with nanoseconds and a zone", func(t *testing.T) {
		want := time.Date(2026, 12, 31, 23, 59, 59, 123456789, zone)
		require.NoError(t, a.Send(ctx, want))
		var got time.Time
		require.NoError(t, b.Recv(ctx, &got))
		assert.True(t, want.Equal(got), "%v, %v", want, got)
		_, offset := got.Zone()
		assert.Equal(t, 2*60*60, offset)
	})
	t.Run("a time into any", func(t *testing.T) {
		want := time.Date(2026, 12, 31, 23, 59, 59, 123456789, time.UTC)
		require.NoError(t, a.Send(ctx, want))
		var got any
		require.NoError(t, b.Recv(ctx, &got))
		require.IsType(t, time.Time{}, got)
		assert.True(t, want.Equal(got.(time.Time)), "%v, %v", want, got)
	})
	t.Run("a map", func(t *testing.T) {
		roundTrip(t, a, b, map[string][]int{"x": {1, 2}, "": nil})
	})
	t.Run("nothing", func(t *testing.T) { roundTrip[any](t, a, b, nil) })
	t.Run("numbers", func(t *testing.T) {
		roundTrip(t, a, b, []uint64{0, 23, 24, 1 << 32, math.MaxUint64})
		roundTrip(t, a, b, []int64{-1, math.MinInt64})
		roundTrip(t, a, b, []float64{0, -1.5, math.Inf(1), math.MaxFloat64})
		roundTrip(t, a, b, []bool{true, false})
	})
	t.Run("a raw CBOR item", func(t *testing.T) {
		roundTrip(t, a, b, cbor.RawMessage{0x83, 1, 2, 3})
	})
	t.Run("a slice of more numbers than the library's default takes", func(t *testing.T) {
		want := make([]int, 300_000)
		for i := range want {
			want[i] = i
		}
		roundTrip(t, a, b, want)
	})
	t.Run("a map of more pairs than the library's default takes", func(t *testing.T) {
		want := make(map[int]int)
		for i := range 200_000 {
			want[i] = -i
		}
		roundTrip(t, a, b, want)
	})
	t.Run("a text of megabytes", func(t *testing.T) {
		roundTrip(t, a, b, strings.Repeat("long ", 1<<20))
	})
	t.Run("deep nesting", func(t *testing.T) {
		var want any = "bottom"
		for range 60 {
			want = []any{want}
		}
		roundTrip(t, a, b, want)
	})
}

func roundTrip[T any](t *testing.T, a, b *transport.Channel, want T) {
	t.Helper()
	sent := testkit.Background(t, func() error { return a.Send(testkit.Context(t), want) })
	var got T
	require.NoError(t, b.Recv(testkit.Context(t), &got))
	require.NoError(t, sent())
	require.Equal(t, want, got)
}

func TestMessages_ReceivedValueStays(t *testing.T) {
	type parts struct {
		Any     any
		Bytes   []byte
		String  string
		ByteStr cbor.ByteString
		Raw     cbor.RawMessage
		Tag     cbor.RawTag
		Tagged  any
		Map     map[any]any
	}
	make := func(seed, size int) parts {
		text := fmt.Sprintf("%x", pattern(seed, size))
		return parts{
			Any: []byte(text), Bytes: []byte(text), String: text, ByteStr: cbor.ByteString(text),
			Raw:    append(cbor.RawMessage{0x43}, text[:3]...),
			Tag:    cbor.RawTag{Number: 4711, Content: append(cbor.RawMessage{0x43}, text[:3]...)},
			Tagged: cbor.Tag{Number: 4712, Content: []byte(text)},
			Map:    map[any]any{text: []byte(text), cbor.ByteString(text): text},
		}
	}
	for _, size := range []int{10, 5000, 50_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a, b := sockets[0].channels(t)
			var got [4]parts
			for i := range got {
				sent := testkit.Background(t, func() error {
					return a.Send(testkit.Context(t), make(i, size))
				})
				require.NoError(t, b.Recv(testkit.Context(t), &got[i]))
				require.NoError(t, sent())
			}
			for i := range got {
				require.Equal(t, make(i, size), got[i])
			}
		})
	}
}

func TestFrames_BodyIsValidUntilTheNextReceive(t *testing.T) {
	for _, size := range []int{100, 70_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a, b := sockets[0].channels(t)
			c, d := sockets[0].channels(t)
			ctx := testkit.Context(t)
			send := func(from *transport.Channel, seed int) {
				sent := testkit.Background(t, func() error {
					return from.SendBytes(ctx, pattern(seed, size))
				})
				require.NoError(t, sent())
			}
			send(a, 1)
			f, err := frames(b).Read(ctx)
			require.NoError(t, err)
			for i := range 20 {
				send(c, 2+i)
				other, err := frames(d).Read(ctx)
				require.NoError(t, err)
				require.True(t, bytes.Equal(pattern(2+i, size), other.Body))
				require.True(t, bytes.Equal(pattern(1, size), f.Body), "lent memory was used again")
			}
			ended, cancel := context.WithCancel(ctx)
			cancel()
			_, err = frames(b).Read(ended)
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, bytes.Equal(pattern(1, size), f.Body))
		})
	}
}

func TestFrames_AppendToABodyDoesNoHarm(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	require.NoError(t, frames(a).Write(ctx,
		frame.Frame{Kind: frame.KindRaw, Body: []byte("one")},
		frame.Frame{Kind: frame.KindRaw, Body: []byte("two")}))
	f, err := frames(b).Read(ctx)
	require.NoError(t, err)
	_ = append(f.Body, "spoilt by an append"...)
	f, err = frames(b).Read(ctx)
	require.NoError(t, err)
	assert.Equal(t, "two", string(f.Body))
}

func TestMessages_OtherKindStays(t *testing.T) {
	for _, size := range []int{3, 20_000, 200_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a, b := sockets[0].channels(t)
			ctx := testkit.Context(t)
			want, buf := pattern(1, size), make([]byte, size)

			sent := testkit.Background(t, func() error { return a.SendBytes(ctx, want) })
			for range 3 {
				err := b.Recv(ctx, new(any))
				require.ErrorIs(t, err, transport.ErrWrongKind)
				assert.EqualError(t, err,
					"transport: receive: the next message is of kind raw, not message; it stays until it is received as such")
			}
			n, err := b.RecvBytes(ctx, buf)
			require.NoError(t, err)
			require.NoError(t, sent())
			require.True(t, bytes.Equal(want, buf[:n]))

			sent = testkit.Background(t, func() error { return a.Send(ctx, want) })
			for range 3 {
				_, err = b.RecvBytes(ctx, buf)
				require.ErrorIs(t, err, transport.ErrWrongKind)
				assert.EqualError(t, err,
					"transport: receive: the next message is of kind message, not raw; it stays until it is received as such")
			}
			var got []byte
			require.NoError(t, b.Recv(ctx, &got))
			require.NoError(t, sent())
			require.True(t, bytes.Equal(want, got))
		})
	}
}

func TestMessages_LargerThanTheBufferStays(t *testing.T) {
	for _, size := range []int{3, 20_000, 200_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a, b := sockets[0].channels(t)
			ctx := testkit.Context(t)
			want := pattern(1, size)
			sent := testkit.Background(t, func() error { return a.SendBytes(ctx, want) })
			for _, have := range []int{0, 1, size - 1} {
				_, err := b.RecvBytes(ctx, make([]byte, have))
				var short *transport.ShortBufferError
				require.ErrorAs(t, err, &short)
				assert.Equal(t, size, short.Need)
				assert.ErrorIs(t, err, io.ErrShortBuffer)
				assert.Contains(t, err.Error(),
					fmt.Sprintf("buffer of %d bytes, the message has %d", have, size))
			}
			buf := make([]byte, size)
			n, err := b.RecvBytes(ctx, buf)
			require.NoError(t, err)
			require.NoError(t, sent())
			require.True(t, bytes.Equal(want, buf[:n]))
		})
	}
}

func TestMessages_UnfitOneIsUsedUp(t *testing.T) {
	for name, body := range map[string][]byte{
		"text where a number is wanted": {0x61, 'x'},
		"a reserved head":               {0x1c},
		"two items":                     {0x01, 0x02},
		"an item cut short":             {0x82, 0x01},
		"no item at all":                {},
		"a lying array head":            {0x9b, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := sockets[0].withRawPeer(t, transport.Config{})
			write(peer, append(frameOf(frame.KindMessage, body...),
				frameOf(frame.KindMessage, 0x18, 42)...))
			var n int
			err := c.Recv(testkit.Context(t), &n)
			var decode *transport.DecodeError
			require.ErrorAs(t, err, &decode)
			assert.Equal(t, "*int", decode.Type)
			assert.Error(t, decode.Err)
			assert.NotErrorIs(t, err, io.EOF, "a bad message is not the end of the stream")
			assert.NotErrorIs(t, err, transport.ErrProtocol)
			assert.Contains(t, err.Error(),
				fmt.Sprintf("transport: receive: cannot decode a message of %d bytes into *int: ",
					len(body)))
			require.NoError(t, c.Recv(testkit.Context(t), &n))
			assert.Equal(t, 42, n)
		})
	}
}

func TestMessages_ValueWithoutEncoding(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			for _, v := range []any{make(chan int), func() {}, struct{ C chan int }{},
				map[string]any{"deep": make(chan int)}} {
				err := c.Send(testkit.Context(t), v)
				var encode *transport.EncodeError
				require.ErrorAs(t, err, &encode)
				assert.Equal(t, fmt.Sprintf("%T", v), encode.Type)
				assert.Error(t, encode.Err)
			}
			sent := testkit.Background(t, func() error { return c.Send(testkit.Context(t), 1) })
			assert.Equal(t, frameOf(frame.KindMessage, 1), readN(t, peer, 6))
			require.NoError(t, sent())
		})
	}
}

type refuses struct{}

func (refuses) MarshalCBOR() ([]byte, error) { return nil, errCause }
func (*refuses) UnmarshalCBOR([]byte) error  { return io.EOF }

func TestMessages_ErrorsOfTheCallersCode(t *testing.T) {
	a, b := sockets[0].channels(t)
	require.ErrorIs(t, a.Send(testkit.Context(t), refuses{}), errCause)
	require.NoError(t, a.Send(testkit.Context(t), 1))
	err := b.Recv(testkit.Context(t), new(refuses))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NotErrorIs(t, err, io.EOF, "which would mean that the peer said goodbye")
}

type panics struct{}

func (panics) MarshalCBOR() ([]byte, error) { panic("encoding") }
func (*panics) UnmarshalCBOR([]byte) error  { panic("decoding") }

func TestMessages_PanicOfTheCallersCode(t *testing.T) {
	for _, size := range []int{5, 70_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			ctx := testkit.Context(t)
			x, peer := sockets[0].connect(t)
			c := open(t, x, transport.Config{})
			frames(c).OnCancel(func(frame.Cancel) { panic("cancelling") })
			var stream []byte
			stream = append(stream,
				frameOf(frame.KindMessage,
					append([]byte{0x7a, 0, byte(size >> 16), byte(size >> 8), byte(size)},
						strings.Repeat("x", size)...)...)...)
			reason := append([]byte{0xa1, 0x66, 'r', 'e', 'a', 's', 'o', 'n', 0x7a, 0,
				byte(size >> 16), byte(size >> 8), byte(size)}, strings.Repeat("y", size)...)
			stream = append(stream, frameOf(frame.KindCancel, reason...)...)
			stream = append(stream, frameOf(frame.KindMessage, 7)...)
			write(peer, stream)

			assert.PanicsWithValue(t, "encoding", func() { c.Send(ctx, panics{}) })
			assert.PanicsWithValue(t, "decoding", func() { c.Recv(ctx, new(panics)) })
			assert.PanicsWithValue(t, "cancelling", func() { c.Recv(ctx, new(int)) })
			var n int
			require.NoError(t, c.Recv(ctx, &n))
			assert.Equal(t, 7, n)
			require.NoError(t, c.Send(ctx, 8))
			assert.Equal(t, frameOf(frame.KindMessage, 8), readN(t, peer, 6))
		})
	}
}
