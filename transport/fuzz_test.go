package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// recorded is a connection with some input and its end. It records the output.
type recorded struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (r *recorded) Read(p []byte) (int, error)       { return r.in.Read(p) }
func (r *recorded) Write(p []byte) (int, error)      { return r.out.Write(p) }
func (r *recorded) Close() error                     { return nil }
func (r *recorded) SetReadDeadline(time.Time) error  { return nil }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }

// FuzzReadFrame reads arbitrary bytes. The frames must be those that a much simpler reader
// finds, and they must encode to the same bytes. The error after them must be the right one.
// A length alone must not cost memory.
func FuzzReadFrame(f *testing.F) {
	const limit = 20_000 // larger than the read buffer
	f.Add([]byte{}, 1)
	f.Add([]byte{0, 0, 0, 0, 1}, 1)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1}, 3)
	f.Add(frameOf(frame.KindMessage, 0x65, 'h', 'e', 'l', 'l', 'o'), 100)
	f.Add(append(frameOf(0x80, make([]byte, 100)...), frameOf(frame.KindRaw)...), 7)
	f.Add(append(frameOf(frame.KindRaw, make([]byte, limit-1)...),
		frameOf(frame.KindPing, 1, 2)...), 4096)
	f.Add(frameOf(frame.KindGoodbye, 0xa1, 0x66, 's', 't', 'a', 't', 'u', 's', 0), 2)
	f.Add(frameOf(frame.KindCancel, 0xa0), 2)
	f.Add(frameOf(0x7f), 100)
	f.Add(frameOf(frame.KindRaw, make([]byte, limit)...), 1000)
	for i, s := range readVectors[framesFile](f, "frames.json").Streams {
		f.Add([]byte(s.Bytes), i)
	}
	for i, r := range readVectors[refusedFile](f, "refused.json").Refused {
		f.Add([]byte(r.Bytes), i)
	}
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		ctx := context.Background()
		want, end := parse(data, limit)
		conn := &recorded{in: &chunked{data, chunk}}
		c := transport.New(conn, transport.Config{MaxFrameSize: limit})
		var got []byte
		for {
			fr, err := frames(c).Read(ctx)
			if err != nil {
				require.ErrorIs(t, err, end)
				break
			}
			require.NoError(t, frames(c).Write(ctx, fr))
			got = conn.out.Bytes()
			require.LessOrEqual(t, len(got), len(data))
		}
		require.True(t, bytes.Equal(want, got), "want %x\n got %x", want, got)
		c.Abort()

		// With a higher limit the input bounds what the channel allocates.
		before := roughlyAllocated()
		c = transport.New(&recorded{in: &chunked{data, chunk}}, transport.Config{})
		for {
			if _, err := frames(c).Read(ctx); err != nil {
				break
			}
		}
		c.Abort()
		require.Less(t, roughlyAllocated()-before, uint64(4*len(data)+1<<20))

		// As messages they cause no panic and no hang.
		c = transport.New(&recorded{in: &chunked{data, chunk}},
			transport.Config{MaxFrameSize: limit})
		defer c.Abort()
		buf := make([]byte, limit)
		for range len(data) + 2 {
			err := c.Recv(ctx, new(any))
			if errors.Is(err, transport.ErrWrongKind) {
				_, err = c.RecvBytes(ctx, buf)
			}
			if decode := (*transport.DecodeError)(nil); err != nil && !errors.As(err, &decode) {
				bye := errors.Is(err, io.EOF)
				gone, protocol := errors.Is(err, transport.ErrPeerGone),
					errors.Is(err, transport.ErrProtocol)
				require.True(t, bye || gone || protocol, "%v", err)
				return
			}
		}
		t.Fatal("it does not end")
	})
}

// roughlyAllocated is like allocated, without a stop of the world. It may be late by less
// than a megabyte.
func roughlyAllocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// chunked is a connection that returns a number of bytes at a time.
type chunked struct {
	data []byte
	n    int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(c.data), max(1, c.n%10_000))
	copy(p, c.data[:n])
	c.data = c.data[n:]
	return n, nil
}

// parse returns the bytes of the frames that Read must return, and the error after them.
func parse(data []byte, limit int) (frames []byte, end error) {
	for len(data) >= 5 {
		announced, kind := binary.LittleEndian.Uint32(data), frame.Kind(data[4])
		n := int(min(announced, uint32(limit)+1)) // fits into 32 bits
		switch {
		case n == 0 || n > limit, kind < frame.KindExtension && kind.String()[0] == 'k':
			return frames, transport.ErrProtocol
		case len(data) < 4+n:
			return frames, transport.ErrPeerGone
		}
		if kind < frame.KindExtension {
			frames = append(frames, data[:4+n]...)
		}
		data = data[4+n:]
	}
	return frames, transport.ErrPeerGone
}
