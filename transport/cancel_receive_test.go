package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

var errCause = errors.New("the caller's own cause")

// drip is a connection with a chunk of bytes for each receive. After the chunk it ends the
// context of the receive. So a receive ends at a chosen byte, without timing.
type drip struct {
	net.Conn // nil: no other methods are called
	data     []byte
	chunk    func() int // the size of the next chunk

	mu     sync.Mutex
	moved  sync.Cond
	past   bool // the deadline is in the past
	pause  bool // the next read waits for the deadline
	cancel func()
}

func newDrip(data []byte, chunk func() int) *drip {
	d := &drip{data: data, chunk: chunk}
	d.moved.L = &d.mu
	return d
}

func (d *drip) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pause {
		d.cancel()
		for !d.past {
			d.moved.Wait()
		}
		d.pause = false
	}
	if d.past {
		return 0, os.ErrDeadlineExceeded
	}
	if len(d.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(d.data), len(p), max(1, d.chunk()))
	copy(p, d.data[:n])
	d.data = d.data[n:]
	d.pause = true
	return n, nil
}

func (d *drip) Write(p []byte) (int, error) { return len(p), nil }
func (d *drip) Close() error                { return nil }

func (d *drip) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.past = !t.IsZero() && t.Before(time.Now())
	d.moved.Broadcast()
	return nil
}

func (d *drip) SetWriteDeadline(time.Time) error { return nil }

// endings has the ways in which a context ends. Each returns a context, functions to end and
// to release it, and the errors for errors.Is.
var endings = []struct {
	name string
	make func() (ctx context.Context, end func(), release func(), want []error)
}{
	{"a cancel", func() (context.Context, func(), func(), []error) {
		ctx, cancel := context.WithCancel(context.Background())
		return ctx, cancel, cancel, []error{context.Canceled}
	}},
	{"a cancel with a cause", func() (context.Context, func(), func(), []error) {
		ctx, cancel := context.WithCancelCause(context.Background())
		end := func() { cancel(errCause) }
		return ctx, end, end, []error{context.Canceled, errCause}
	}},
	{"a deadline", func() (context.Context, func(), func(), []error) {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Microsecond)
		return ctx, func() {}, cancel, []error{context.DeadlineExceeded}
	}},
	{"a deadline with a cause", func() (context.Context, func(), func(), []error) {
		ctx, cancel := context.WithTimeoutCause(context.Background(),
			100*time.Microsecond, errCause)
		return ctx, func() {}, cancel, []error{context.DeadlineExceeded, errCause}
	}},
	{"a context of another type", func() (context.Context, func(), func(), []error) {
		ctx := &ownContext{done: make(chan struct{})}
		end := sync.OnceFunc(ctx.end)
		return ctx, end, end, []error{context.Canceled}
	}},
}

// ownContext is a context of an unknown type, so package context watches it with a
// goroutine.
type ownContext struct {
	done chan struct{}
	mu   sync.Mutex
	err  error
}

func (c *ownContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = context.Canceled
	close(c.done)
}

func (c *ownContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *ownContext) Done() <-chan struct{}       { return c.done }
func (c *ownContext) Value(any) any               { return nil }
func (c *ownContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// message is a message of a test's stream.
type message struct {
	kind frame.Kind
	body []byte // raw bytes, or the content of the CBOR byte string
}

// stream returns messages of these sizes and of both kinds, and their bytes with pings and
// extension frames between them.
func stream(rng *rand.Rand, sizes []int) (data []byte, want []message) {
	largest := slices.Max(sizes)
	for i, size := range sizes {
		m := message{frame.KindRaw, pattern(i, size)}
		body := m.body
		if i%2 == 1 {
			m.kind = frame.KindMessage
			body = append([]byte{0x5a, byte(size >> 24), byte(size >> 16),
				byte(size >> 8), byte(size)}, body...)
		}
		switch rng.IntN(4) {
		case 0:
			data = append(data,
				frameOf(frame.KindExtension+frame.Kind(i), pattern(i, rng.IntN(2*largest))...)...)
		case 1:
			data = append(data, frameOf(frame.KindPing, pattern(i, rng.IntN(64))...)...)
		}
		data = append(data, frameOf(m.kind, body...)...)
		want = append(want, m)
	}
	return data, want
}

// receiveAny receives the next message with a random call. If this call is for other
// messages, got is nil.
func receiveAny(
	ctx context.Context, c *transport.Channel, rng *rand.Rand, buf []byte, readFrames bool,
) (got *message, err error) {
	calls := 2
	if readFrames {
		calls = 3
	}
	switch rng.IntN(calls) {
	case 0:
		var b []byte
		if err = c.Recv(ctx, &b); err == nil {
			return &message{frame.KindMessage, b}, nil
		}
	case 1:
		if rng.IntN(4) == 0 {
			buf = buf[:rng.IntN(len(buf))]
		}
		var n int
		if n, err = c.RecvBytes(ctx, buf); err == nil {
			return &message{frame.KindRaw, bytes.Clone(buf[:n])}, nil
		}
	case 2:
		var f frame.Frame
		if f, err = frames(c).Read(ctx); err == nil {
			switch f.Kind {
			case frame.KindMessage:
				return &message{f.Kind, bytes.Clone(f.Body[5:])}, nil
			case frame.KindRaw:
				return &message{f.Kind, bytes.Clone(f.Body)}, nil
			}
			return nil, nil // a ping
		}
	}
	if short := (*transport.ShortBufferError)(nil); errors.Is(err, transport.ErrWrongKind) ||
		errors.As(err, &short) {
		return nil, nil
	}
	return nil, err
}

func TestCancelReceive_AtAnyByteLosesNothing(t *testing.T) {
	for _, ending := range endings {
		for name, test := range map[string]struct {
			sizes []int
			chunk func(*rand.Rand) int
		}{
			"small messages by the byte": {
				[]int{0, 1, 2, 100, 0, 0, 3, 40},
				func(*rand.Rand) int { return 1 },
			},
			"messages about the read buffer by the kilobyte": {
				[]int{8180, 8192, 8192, 0, 9000, 1, 20_000, 65_536, 5, 65_536},
				func(rng *rand.Rand) int { return rng.IntN(2000) },
			},
			"large messages by any": {
				[]int{70_000, 131_072, 131_073, 1, 400_000, 1_000_000, 3, 64 << 10, 64<<10 + 1},
				func(rng *rand.Rand) int { return 1 << rng.IntN(18) },
			},
		} {
			t.Run(ending.name+", "+name, func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(2) {
					rng := rand.New(rand.NewPCG(seed, 1))
					data, want := stream(rng, test.sizes)
					conn := newDrip(data, func() int { return test.chunk(rng) })
					c := open(t, conn, transport.Config{})
					buf := make([]byte, 1<<20)
					interrupted := 0
					for len(want) > 0 {
						ctx, end, release, wantErrs := ending.make()
						conn.mu.Lock()
						conn.cancel = end
						conn.mu.Unlock()
						got, err := receiveAny(ctx, c, rng, buf, true)
						release()
						if err != nil {
							interrupted++
							for _, wantErr := range wantErrs {
								require.ErrorIs(t, err, wantErr)
							}
							continue
						}
						if got == nil {
							continue
						}
						require.Equal(t, want[0].kind, got.kind)
						require.True(t, bytes.Equal(want[0].body, got.body),
							"%d bytes", len(want[0].body))
						want = want[1:]
					}
					assert.Greater(t, interrupted, 5, "the test did not cancel")
					require.ErrorIs(t, lastError(conn, c), transport.ErrPeerGone)
				}
			})
		}
	}
}

func TestCancelReceive_AnotherCallFinishesTheMessage(t *testing.T) {
	calls := map[string]func(context.Context, *transport.Channel) ([]byte, error){
		"RecvBytes": func(ctx context.Context, c *transport.Channel) ([]byte, error) {
			buf := make([]byte, 200_000)
			n, err := c.RecvBytes(ctx, buf)
			return buf[:n], err
		},
		"ReadFrame": func(ctx context.Context, c *transport.Channel) ([]byte, error) {
			f, err := frames(c).Read(ctx)
			return bytes.Clone(f.Body), err
		},
	}
	for first, begin := range calls {
		for second, finish := range calls {
			for _, size := range []int{2, 100, 8000, 8192, 20_000, 150_000} {
				t.Run(fmt.Sprint(first, ", ", second, ", ", size), func(t *testing.T) {
					want := pattern(1, size)
					data := append(frameOf(frame.KindRaw, want...),
						frameOf(frame.KindRaw, 'n', 'e', 'x', 't')...)
					begun := false
					conn := newDrip(data, func() int {
						if begun {
							return len(data)
						}
						return min(5+size/2, 8000)
					})
					receive := func(call func(context.Context, *transport.Channel) ([]byte, error),
						c *transport.Channel) ([]byte, error) {
						ctx, cancel := context.WithCancel(context.Background())
						defer cancel()
						conn.mu.Lock()
						conn.cancel = cancel
						conn.mu.Unlock()
						return call(ctx, c)
					}
					c := open(t, conn, transport.Config{})
					_, err := receive(begin, c)
					require.ErrorIs(t, err, context.Canceled)
					begun = true
					for _, want := range [][]byte{want, []byte("next")} {
						got, err := receive(finish, c)
						for errors.Is(err, context.Canceled) {
							got, err = receive(finish, c)
						}
						require.NoError(t, err)
						require.True(t, bytes.Equal(want, got), "%d bytes", len(got))
					}
				})
			}
		}
	}
}

// lastError receives until the end of conn, and returns the error.
func lastError(conn *drip, c *transport.Channel) error {
	for {
		ctx, cancel := context.WithCancel(context.Background())
		conn.mu.Lock()
		conn.cancel = cancel
		conn.mu.Unlock()
		err := c.Recv(ctx, new(any))
		cancel()
		if !errors.Is(err, context.Canceled) {
			return err
		}
	}
}

func TestCancelReceive_AtRandomLosesNothing(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(7, 7))
			var sizes []int
			for range 60 {
				sizes = append(sizes, rng.IntN(300), rng.IntN(20_000))
			}
			sizes = append(sizes, 65_536, 200_000, 1_000_000, 5, 300_000)
			data, want := stream(rng, sizes)
			c, peer := l.withRawPeer(t, transport.Config{})
			wrote := testkit.Background(t, func() error {
				rng := rand.New(rand.NewPCG(8, 8))
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 1+rng.IntN(1<<rng.IntN(17)))
					if _, err := peer.Write(rest[:n]); err != nil {
						return err
					}
					rest = rest[n:]
					for range rng.IntN(20) {
						runtime.Gosched()
					}
				}
				return nil
			})
			write := testkit.Background(t, func() error { // the pongs
				_, err := io.Copy(io.Discard, peer)
				return err
			})
			buf := make([]byte, 1<<20)
			var interrupted int
			for i := 0; len(want) > 0; i++ {
				ctx, end, release, wantErrs := endings[i%len(endings)].make()
				if rng.IntN(5) == 0 {
					ctx = context.Background()
				}
				spin := rng.IntN(200)
				cancelled := testkit.Background(t, func() bool {
					for range spin {
						runtime.Gosched()
					}
					end()
					return true
				})
				got, err := receiveAny(ctx, c, rng, buf, true)
				if rng.IntN(2) == 0 {
					cancelled() // otherwise it may end during a later call
				}
				release()
				if err != nil {
					interrupted++
					for _, wantErr := range wantErrs {
						require.ErrorIs(t, err, wantErr)
					}
					continue
				}
				if got == nil {
					continue
				}
				require.Equal(t, want[0].kind, got.kind)
				require.True(t, bytes.Equal(want[0].body, got.body), "%d bytes", len(want[0].body))
				want = want[1:]
			}
			require.NoError(t, wrote())
			c.Abort()
			peer.Close()
			write()
			t.Logf("%d receives were cancelled", interrupted)
		})
	}
}

func TestCancelReceive_ContextHasEnded(t *testing.T) {
	a, b := sockets[0].channels(t)
	require.NoError(t, a.Send(testkit.Context(t), "stays"))
	for _, ending := range endings {
		ctx, end, release, want := ending.make()
		end()
		<-ctx.Done()
		release()
		var got string
		for _, wantErr := range want {
			assert.ErrorIs(t, b.Recv(ctx, &got), wantErr)
			_, err := b.RecvBytes(ctx, nil)
			assert.ErrorIs(t, err, wantErr)
			_, err = frames(b).Read(ctx)
			assert.ErrorIs(t, err, wantErr)
		}
		var typed *transport.Error
		require.ErrorAs(t, b.Recv(ctx, &got), &typed)
		assert.Equal(t, "receive", typed.Op)
	}
	var got string
	require.NoError(t, b.Recv(testkit.Context(t), &got))
	assert.Equal(t, "stays", got)
}

func TestCancelReceive_ErrorNamesTheCause(t *testing.T) {
	a, _ := sockets[0].channels(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errCause)
	assert.EqualError(t, a.Recv(ctx, new(any)),
		"transport: receive: context canceled: the caller's own cause")
	assert.EqualError(t, a.Send(ctx, 1),
		"transport: send: context canceled: the caller's own cause")
	ctx, cancel = context.WithCancelCause(context.Background())
	cancel(nil)
	assert.EqualError(t, a.Recv(ctx, new(any)), "transport: receive: context canceled")
}

func TestCancelReceive_WhileWaitingForTheTurn(t *testing.T) {
	a, b := sockets[0].channels(t)
	first := testkit.Background(t, func() error { return b.Recv(testkit.Context(t), new(string)) })
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Microsecond)
		require.ErrorIs(t, b.Recv(ctx, new(string)), context.DeadlineExceeded)
		cancel()
	}
	require.NoError(t, a.Send(testkit.Context(t), "x"))
	require.NoError(t, first())
}

// The end of a context must never interrupt a call with another context.
func TestContext_EndsAfterItsCall(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			echo := testkit.Background(t, func() error {
				buf := make([]byte, 100)
				for {
					n, err := b.RecvBytes(context.Background(), buf)
					if err == nil {
						err = b.SendBytes(context.Background(), buf[:n])
					}
					if err != nil {
						return err
					}
				}
			})
			rounds := 3000
			if testing.Short() {
				rounds = 300
			}
			rng := rand.New(rand.NewPCG(1, 2))
			shared, cancelShared := context.WithCancel(context.Background())
			buf := make([]byte, 100)
			var wg sync.WaitGroup
			for i := range rounds {
				ctx, end := context.Background(), func() {}
				switch rng.IntN(6) {
				case 0: // ends between two calls
					c, cancel := context.WithCancel(context.Background())
					ctx, end = c, cancel
				case 1: // ends while the next call begins
					c, cancel := context.WithCancel(context.Background())
					ctx, end = c, func() { wg.Go(cancel) }
				case 2: // ends a moment later
					c, cancel := context.WithCancel(context.Background())
					ctx, end = c, func() {
						wg.Go(func() {
							for range 50 {
								runtime.Gosched()
							}
							cancel()
						})
					}
				case 3: // is used again and again
					ctx = shared
				case 4: // is used again for a while, and ends
					ctx, end = shared, func() {
						cancelShared()
						shared, cancelShared = context.WithCancel(context.Background())
					}
				}
				want := fmt.Sprint(i)
				require.NoError(t, a.SendBytes(ctx, []byte(want)), "round %d", i)
				if rng.IntN(2) == 0 && ctx != shared {
					end()
					ctx, end = context.Background(), func() {}
				}
				n, err := a.RecvBytes(ctx, buf)
				require.NoError(t, err, "round %d", i)
				require.Equal(t, want, string(buf[:n]))
				end()
			}
			cancelShared()
			wg.Wait()
			require.NoError(t, a.Close())
			require.ErrorIs(t, echo(), io.EOF)
		})
	}
}

func TestContext_EndsDuringItsCall(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			for i := range 1000 {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				err := b.Recv(ctx, new(int))
				require.ErrorIs(t, err, context.Canceled)
				require.NoError(t, a.Send(context.Background(), i))
				var got int
				require.NoError(t, b.Recv(context.Background(), &got), "round %d", i)
				require.Equal(t, i, got)
			}
		})
	}
}

func TestDeadline_OfTheCallerIsReported(t *testing.T) {
	a, b := sockets[0].channels(t)
	require.NoError(t, b.NetConn().SetReadDeadline(time.Now().Add(-time.Second)))
	require.ErrorIs(t, b.Recv(context.Background(), new(any)), os.ErrDeadlineExceeded)
	require.NoError(t, b.NetConn().SetReadDeadline(time.Time{}))
	require.NoError(t, a.Send(testkit.Context(t), 1))
	require.NoError(t, b.Recv(testkit.Context(t), new(any)))
}

func TestContext_LeavesTheOtherDirectionAlone(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx, cancel := context.WithCancel(context.Background())
	received := testkit.Background(t, func() error { return a.Recv(ctx, new(int)) })
	require.NoError(t, a.Send(context.Background(), 1))
	cancel()
	require.ErrorIs(t, received(), context.Canceled)
	require.NoError(t, a.Send(context.Background(), 2))
	for want := 1; want <= 2; want++ {
		var got int
		require.NoError(t, b.Recv(testkit.Context(t), &got))
		assert.Equal(t, want, got)
	}
}
