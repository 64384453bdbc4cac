package call_test

import (
	"context"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// Both sides call each other at the same time, and handlers call back.
func TestConn_BothSidesCall(t *testing.T) {
	nest := call.NewUnary[int, int]("nest")
	mux := echoes()
	nest.Handle(mux, func(ctx context.Context, depth int) (int, error) {
		if depth == 0 {
			return 0, nil
		}
		n, err := nest.Call(ctx, call.ConnOf(ctx), depth-1)
		return n + 1, err
	})
	a, b := pair(t, mux, mux)
	ctx := testkit.Context(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			conn := []*call.Conn{a, b}[i%2]
			for n := range 50 {
				got, err := nest.Call(ctx, conn, n%20)
				if !assert.NoError(t, err) || !assert.Equal(t, n%20, got) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// A peer that closes at the same time does not read, either.
func TestConn_CloseDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	cfg := call.Config{CancelGrace: 2 * testkit.Patience}
	conn := cfg.New(call.Over(transport.New(near, transport.Config{})), nil)
	result := testkit.Background(t, func() error {
		_, err := echo.Call(testkit.Context(t), conn, word{"unread"})
		return err
	})
	_, err := far.Read(make([]byte, 1)) // the write is under way
	require.NoError(t, err)
	require.NoError(t, testkit.Background(t, conn.Close)())
	assert.ErrorIs(t, result(), call.ErrClosed)
}

// Other calls are served while handlers block.
func TestConn_BlockedHandlersDoNotHoldUpOthers(t *testing.T) {
	mux := echoes()
	release := make(chan struct{})
	blocked := call.NewUnary[word, word]("blocked")
	blocked.Handle(mux, func(_ context.Context, w word) (word, error) {
		<-release
		return w, nil
	})
	a, _ := pair(t, nil, mux)
	ctx := testkit.Context(t)
	var results []func() error
	for range 50 {
		results = append(results, testkit.Background(t, func() error {
			_, err := blocked.Call(ctx, a, word{})
			return err
		}))
		_, err := echo.Call(ctx, a, word{})
		require.NoError(t, err)
	}
	close(release)
	for _, result := range results {
		assert.NoError(t, result())
	}
}

func TestConn_MoreCallsThanAllowedWait(t *testing.T) {
	mux := call.NewMux()
	var running, most atomic.Int64
	three := make(chan struct{})
	closeThree := sync.OnceFunc(func() { close(three) })
	echo.Handle(mux, func(_ context.Context, w word) (word, error) {
		n := running.Add(1)
		defer running.Add(-1)
		if n == 3 {
			closeThree()
		}
		<-three
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		runtime.Gosched()
		return w, nil
	})
	x, y := testkit.Unix(t)
	a := open(t, call.Config{}, transport.New(x, transport.Config{}), nil)
	open(t, call.Config{MaxCalls: 3}, transport.New(y, transport.Config{}), mux)
	ctx := testkit.Context(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 5 {
				_, err := echo.Call(ctx, a, word{})
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 3, most.Load())
}

func TestConn_MessagesPassBesideCalls(t *testing.T) {
	x, y := testkit.Unix(t)
	here, there := transport.New(x, transport.Config{}), transport.New(y, transport.Config{})
	a, b := open(t, call.Config{}, here, nil), open(t, call.Config{}, there, echoes())
	ctx := testkit.Context(t)
	received := testkit.Background(t, func() error {
		for range 100 {
			var text string
			if err := b.Recv(ctx, &text); err != nil {
				return err
			}
			assert.Len(t, text, 100_000)
			body, err := b.RecvBytes(ctx)
			if err != nil {
				return err
			}
			assert.Len(t, body, 50_000)
		}
		_, err := b.RecvBytes(ctx)
		assert.ErrorIs(t, err, transport.ErrWrongKind)
		return b.Recv(ctx, new(string))
	})
	for range 100 {
		require.NoError(t, here.Send(ctx, strings.Repeat("x", 100_000)))
		_, err := echo.Call(ctx, a, word{"between"})
		require.NoError(t, err)
		require.NoError(t, here.SendBytes(ctx, make([]byte, 50_000)))
	}
	require.NoError(t, here.Send(ctx, "the last"))
	require.NoError(t, received())
}

// A call waits if the other program first receives messages.
func TestConn_CallsWaitForTheOtherSide(t *testing.T) {
	x, y := testkit.Unix(t)
	a := open(t, call.Config{}, transport.New(x, transport.Config{}), nil)
	ctx, cancel := context.WithTimeout(testkit.Context(t), 20*time.Millisecond)
	defer cancel()
	_, err := echo.Call(ctx, a, word{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	there := transport.New(y, transport.Config{})
	assert.ErrorIs(t, there.Recv(testkit.Context(t), new(any)), transport.ErrWrongKind)
	open(t, call.Config{}, there, echoes())
	_, err = echo.Call(testkit.Context(t), a, word{})
	assert.NoError(t, err)
}

func TestConn_SmallFrameLimitIsReported(t *testing.T) {
	x, _ := testkit.Unix(t)
	c := open(t, call.Config{}, transport.New(x, transport.Config{MaxFrameSize: 1000}), nil)
	_, err := echo.Call(testkit.Context(t), c, word{})
	assert.ErrorContains(t, err, "MaxFrameSize of 1000 bytes")
}

func TestDrain_FinishesCallsAndBeginsNone(t *testing.T) {
	for _, drainer := range []string{"caller", "callee"} {
		t.Run(drainer, func(t *testing.T) {
			mux := echoes()
			release, began := make(chan struct{}), make(chan struct{})
			slow := call.NewUnary[word, word]("slow")
			slow.Handle(mux, func(_ context.Context, w word) (word, error) {
				close(began)
				<-release
				return w, nil
			})
			a, b := pair(t, nil, mux)
			ctx := testkit.Context(t)
			result := testkit.Background(t, func() error {
				_, err := slow.Call(ctx, a, word{})
				return err
			})
			testkit.Receive(t, began)
			drains := a
			if drainer == "callee" {
				drains = b
			}
			drained := testkit.Background(t, func() error { return drains.Drain(ctx) })
			testkit.Eventually(t, "new calls are refused", func() bool {
				_, err := echo.Call(ctx, a, word{})
				if err != nil {
					assert.ErrorIs(t, err, call.ErrDraining)
				}
				return err != nil
			})
			close(release)
			assert.NoError(t, result())
			assert.NoError(t, drained())
			assert.ErrorIs(t, drains.Err(), call.ErrClosed)
		})
	}
}

func TestDrain_EndsWithItsContext(t *testing.T) {
	mux := call.NewMux()
	s := newStuck(mux)
	a, b := pair(t, nil, mux)
	result := testkit.Background(t, func() error {
		_, err := echo.Call(testkit.Context(t), a, word{})
		return err
	})
	testkit.Receive(t, s.began)
	close(s.finish)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, b.Drain(ctx), context.DeadlineExceeded)
	assert.ErrorIs(t, testkit.Receive(t, s.cause), call.ErrClosed)
	require.NoError(t, a.Close())
	assert.ErrorIs(t, result(), call.ErrClosed)
}

func TestClose_EndsCallsOfBothSides(t *testing.T) {
	mux := call.NewMux()
	s := newStuck(mux)
	close(s.finish)
	a, b := pair(t, nil, mux)
	result := testkit.Background(t, func() error {
		_, err := echo.Call(testkit.Context(t), a, word{})
		return err
	})
	testkit.Receive(t, s.began)
	require.NoError(t, b.Close())
	assert.ErrorIs(t, testkit.Receive(t, s.cause), call.ErrClosed)
	require.NoError(t, a.Close())
	assert.ErrorIs(t, result(), call.ErrClosed)
	_, err := echo.Call(testkit.Context(t), a, word{})
	assert.ErrorIs(t, err, call.ErrClosed)
	require.NoError(t, a.Close(), "a second Close")
}

func TestMetadata_GoesWithCallsAndTheirCalls(t *testing.T) {
	seen := make(chan call.Metadata, 2)
	mux := call.NewMux()
	relay := call.NewUnary[word, word]("relay")
	relay.Handle(mux, func(ctx context.Context, w word) (word, error) {
		seen <- call.MetadataOf(ctx)
		return echo.Call(ctx, call.ConnOf(ctx), w)
	})
	back := call.NewMux()
	echo.Handle(back, func(ctx context.Context, w word) (word, error) {
		seen <- call.MetadataOf(ctx)
		return w, nil
	})
	a, _ := pair(t, back, mux)
	want := call.Metadata{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	ctx := call.WithMetadata(testkit.Context(t), want)
	_, err := relay.Call(ctx, a, word{})
	require.NoError(t, err)
	assert.Equal(t, want, testkit.Receive(t, seen))
	assert.Equal(t, want, testkit.Receive(t, seen))

	large := call.WithMetadata(ctx, call.Metadata{"x": strings.Repeat("x", 4<<10)})
	_, err = relay.Call(large, a, word{})
	assert.Equal(t, call.CodeTooLarge, asError(t, err).Code)
	_, err = relay.Call(testkit.Context(t), a, word{})
	require.NoError(t, err)
	assert.Empty(t, testkit.Receive(t, seen))
}
