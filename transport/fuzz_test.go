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

	"github.com/spawnwire/spawnwire/transport"
)

// recorded is a connection whose peer has sent some bytes and gone; it records what is written.
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

// FuzzReadFrame gives a channel arbitrary bytes. The frames that come out must be those that a much
// simpler reader finds, encode to the same bytes again, and be followed by the error that fits. A length is
// never believed before its bytes have come.
func FuzzReadFrame(f *testing.F) {
	const limit = 20_000 // more than the read buffer
	f.Add([]byte{}, 1)
	f.Add([]byte{0, 0, 0, 0, 1}, 1)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1}, 3)
	f.Add(frame(transport.KindMessage, 0x65, 'h', 'e', 'l', 'l', 'o'), 100)
	f.Add(append(frame(0x80, make([]byte, 100)...), frame(transport.KindRaw)...), 7)
	f.Add(append(frame(transport.KindRaw, make([]byte, limit-1)...), frame(transport.KindPing, 1, 2)...), 4096)
	f.Add(frame(transport.KindGoodbye, 0xa1, 0x66, 's', 't', 'a', 't', 'u', 's', 0), 2)
	f.Add(frame(transport.KindCancel, 0xa0), 2)
	f.Add(frame(0x7f), 100)
	f.Add(frame(transport.KindRaw, make([]byte, limit)...), 1000)
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
		c := transport.New(conn, transport.Config{Limit: limit})
		var got []byte
		for {
			fr, err := c.ReadFrame(ctx)
			if err != nil {
				require.ErrorIs(t, err, end)
				break
			}
			require.NoError(t, c.WriteFrames(ctx, fr))
			got = conn.out.Bytes()
			require.LessOrEqual(t, len(got), len(data))
		}
		require.True(t, bytes.Equal(want, got), "want %x\n got %x", want, got)
		c.Abort()

		// The same bytes for a channel with a limit that they do not reach: what it allocates is bounded by what has come.
		before := roughlyAllocated()
		c = transport.New(&recorded{in: &chunked{data, chunk}}, transport.Config{})
		for {
			if _, err := c.ReadFrame(ctx); err != nil {
				break
			}
		}
		c.Abort()
		require.Less(t, roughlyAllocated()-before, uint64(4*len(data)+1<<20))

		// The same bytes as messages: no panic, no hang, and an end.
		c = transport.New(&recorded{in: &chunked{data, chunk}}, transport.Config{Limit: limit})
		defer c.Abort()
		buf := make([]byte, limit)
		for range len(data) + 2 {
			err := c.Recv(ctx, new(any))
			if kind := (*transport.KindError)(nil); errors.As(err, &kind) {
				_, err = c.RecvBytes(ctx, buf)
			}
			if decode := (*transport.DecodeError)(nil); err != nil && !errors.As(err, &decode) {
				bye := errors.Is(err, io.EOF)
				gone, protocol := errors.Is(err, transport.ErrPeerGone), errors.Is(err, transport.ErrProtocol)
				require.True(t, bye || gone || protocol, "%v", err)
				return
			}
		}
		t.Fatal("it does not end")
	})
}

// roughlyAllocated is allocated without a stop of the world; it may lag by less than a megabyte.
func roughlyAllocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// chunked returns so many bytes at a time.
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

// parse returns the bytes of the frames that ReadFrame must give, and the error after them.
func parse(data []byte, limit int) (frames []byte, end error) {
	for len(data) >= 5 {
		announced, kind := binary.LittleEndian.Uint32(data), transport.Kind(data[4])
		n := int(min(announced, uint32(limit)+1)) // which fits into 32 bits
		switch {
		case n == 0 || n > limit, kind < transport.KindExtension && kind.String()[0] == 'k':
			return frames, transport.ErrProtocol
		case len(data) < 4+n:
			return frames, transport.ErrPeerGone
		}
		if kind < transport.KindExtension {
			frames = append(frames, data[:4+n]...)
		}
		data = data[4+n:]
	}
	return frames, transport.ErrPeerGone
}
