package call_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

var (
	count = call.NewServerStream[int, int]("count") // 0 up to the request
	sum   = call.NewClientStream[int, int]("sum")
	loud  = call.NewBidi[word, word]("loud")
	shell = call.NewSession[int, word, word]("shell")
)

// streams has the methods above.
func streams() *call.Mux {
	mux := echoes()
	count.Handle(mux, func(_ context.Context, n int, send func(int) error) error {
		for i := range n {
			if err := send(i); err != nil {
				return err
			}
		}
		return nil
	})
	sum.Handle(mux, func(_ context.Context, in iter.Seq2[int, error]) (total int, err error) {
		for n, err := range in {
			if err != nil {
				return 0, err
			}
			total += n
		}
		return total, nil
	})
	loud.Handle(mux, func(_ context.Context, s *call.Stream[word, word]) error {
		return shout(s)
	})
	shell.Handle(mux, func(
		_ context.Context, s *call.Stream[word, word], started func(int) error,
	) error {
		if err := started(4321); err != nil {
			return err
		}
		return shout(s)
	})
	return mux
}

func shout(s *call.Stream[word, word]) error {
	for w, err := range s.All() {
		if err != nil {
			return err
		}
		if err := s.Send(word{strings.ToUpper(w.Text)}); err != nil {
			return err
		}
	}
	return nil
}

func TestStream_EachShape(t *testing.T) {
	a, _ := pair(t, nil, streams())
	ctx := testkit.Context(t)
	for _, n := range []int{0, 1, 10, 20_000} {
		var got []int
		for i, err := range count.Call(ctx, a, n) {
			require.NoError(t, err)
			got = append(got, i)
		}
		require.Len(t, got, n)
		require.True(t, slices.IsSorted(got))

		total, err := sum.Call(ctx, a, func(yield func(int) bool) {
			for i := range n {
				if !yield(i) {
					return
				}
			}
		})
		require.NoError(t, err)
		require.Equal(t, n*(n-1)/2, total)
	}
	s, err := loud.Open(ctx, a)
	require.NoError(t, err)
	defer s.Close()
	converse(t, s)

	pid, s, err := shell.Open(ctx, a)
	require.NoError(t, err)
	defer s.Close()
	assert.Equal(t, 4321, pid)
	converse(t, s)
}

func converse(t *testing.T, s *call.Stream[word, word]) {
	t.Helper()
	for i := range 100 {
		require.NoError(t, s.Send(word{fmt.Sprint("x", i)}))
		got, err := s.Recv()
		require.NoError(t, err)
		require.Equal(t, word{fmt.Sprint("X", i)}, got)
	}
	require.NoError(t, s.CloseSend())
	_, err := s.Recv()
	assert.Equal(t, io.EOF, err)
	assert.Equal(t, io.EOF, s.Send(word{}))
	assert.NoError(t, s.Close())
	assert.NoError(t, s.Close(), "a second Close")
}

func TestStream_LargeMessages(t *testing.T) {
	a, _ := pair(t, nil, streams())
	ctx := testkit.Context(t)
	s, err := loud.Open(ctx, a)
	require.NoError(t, err)
	defer s.Close()
	sizes := []int{10, 70_000, 0, 3 << 20, 32 << 10, 64 << 10, 5, 6 << 20}
	sent := testkit.Background(t, func() error {
		for _, n := range sizes {
			if err := s.Send(word{strings.Repeat("x", n)}); err != nil {
				return err
			}
		}
		return s.CloseSend()
	})
	for _, n := range sizes {
		w, err := s.Recv()
		require.NoError(t, err)
		require.True(t, w.Text == strings.Repeat("X", n), "%d bytes", n)
	}
	_, err = s.Recv()
	require.Equal(t, io.EOF, err)
	require.NoError(t, sent())
}

// A message may need the whole window, also after smaller ones.
func TestStream_MessagesOfAWholeWindow(t *testing.T) {
	a, _ := pairWith(t, call.Config{MaxCalls: 1000, Memory: 64 << 10}, nil, streams())
	_, s, err := shell.Open(testkit.Context(t), a)
	require.NoError(t, err)
	defer s.Close()
	for _, n := range []int{4050, 100, 4050, 1500, 4050} {
		require.NoError(t, s.Send(word{strings.Repeat("x", n)}))
		got, err := s.Recv()
		require.NoError(t, err)
		assert.Len(t, got.Text, n)
	}
}

func TestStream_EarlyBreakCancelsAndWaits(t *testing.T) {
	mux := call.NewMux()
	var ended atomic.Int64
	count.Handle(mux, func(ctx context.Context, _ int, send func(int) error) error {
		defer ended.Add(1)
		for i := 0; ; i++ {
			if err := send(i); err != nil {
				assert.ErrorIs(t, err, context.Canceled)
				var by *call.CancelError
				if assert.ErrorAs(t, context.Cause(ctx), &by) {
					assert.Contains(t, by.Reason, "the caller has closed the stream")
				}
				return err
			}
		}
	})
	a, _ := pairWith(t, call.Config{CancelGrace: testkit.Patience}, nil, mux)
	for round := range int64(20) {
		for i, err := range count.Call(testkit.Context(t), a, 0) {
			require.NoError(t, err)
			if i == 1000 {
				break
			}
		}
		require.Equal(t, round+1, ended.Load(), "the handler has ended before the loop")
	}
}

func TestStream_ErrorsComeAfterTheMessages(t *testing.T) {
	mux := call.NewMux()
	count.Handle(mux, func(_ context.Context, n int, send func(int) error) error {
		for i := range n {
			if err := send(i); err != nil {
				return err
			}
		}
		return fmt.Errorf("after %d: %w", n, io.EOF)
	})
	sum.Handle(mux, func(_ context.Context, in iter.Seq2[int, error]) (int, error) {
		for n, err := range in {
			if n == 10 {
				return n, errQuota
			}
			assert.NoError(t, err)
		}
		return 0, nil
	})
	shell.Handle(mux, func(context.Context, *call.Stream[word, word], func(int) error) error {
		return errQuota
	})
	a, _ := pair(t, nil, mux)
	ctx := testkit.Context(t)
	n := 0
	var last error
	for _, err := range count.Call(ctx, a, 1000) {
		if last = err; err == nil {
			n++
		}
	}
	assert.Equal(t, 1000, n)
	assert.ErrorIs(t, last, io.EOF)
	assert.EqualError(t, last, "call: count: after 1000: EOF")

	pulled := 0
	_, err := sum.Call(ctx, a, func(yield func(int) bool) {
		for yield(pulled) {
			pulled++
		}
	})
	assert.ErrorIs(t, err, errQuota)
	_, _, err = shell.Open(ctx, a)
	assert.ErrorIs(t, err, errQuota)
	assert.Equal(t, []string{"shell"}, asError(t, err).Path)
	_, err = loud.Open(ctx, a)
	require.NoError(t, err, "an unknown method is found later")
}

// The end of the context ends a stream that nobody uses, and one in each operation.
func TestStream_EndOfContext(t *testing.T) {
	mux := call.NewMux()
	causes := make(chan error, 10)
	loud.Handle(mux, func(ctx context.Context, s *call.Stream[word, word]) error {
		_, err := s.Recv()
		for err == nil {
			<-ctx.Done()
			err = ctx.Err()
		}
		causes <- err
		return err
	})
	a, _ := pairWith(t, call.Config{CancelGrace: testkit.Patience}, nil, mux)
	for _, use := range []string{"unused", "receives", "sends"} {
		t.Run(use, func(t *testing.T) {
			ctx, cancel := context.WithCancel(testkit.Context(t))
			s, err := loud.Open(ctx, a)
			require.NoError(t, err)
			stop := time.AfterFunc(20*time.Millisecond, cancel)
			defer stop.Stop()
			for err = nil; use == "sends" && err == nil; {
				err = s.Send(word{strings.Repeat("x", 1000)})
			}
			if use == "receives" {
				_, err = s.Recv()
			}
			if use != "unused" {
				assert.ErrorIs(t, err, context.Canceled)
			}
			assert.ErrorIs(t, testkit.Receive(t, causes), context.Canceled)
			_, err = s.Recv()
			assert.ErrorIs(t, err, context.Canceled)
			assert.Equal(t, call.CodeCanceled, asError(t, err).Code)
			assert.NoError(t, s.Close())
		})
	}
}

// One of many streams is never read. It stops, with at most its window in memory,
// and the others go on.
func TestStream_UnreadOneStopsOnlyItself(t *testing.T) {
	mux := streams()
	flood := call.NewServerStream[int, []byte]("flood")
	var sent atomic.Int64
	flood.Handle(mux, func(_ context.Context, size int, send func([]byte) error) error {
		for {
			if err := send(make([]byte, size)); err != nil {
				return err
			}
			sent.Add(1)
		}
	})
	a, _ := pairWith(t, call.Config{MaxCalls: 1100, Memory: 64 << 20}, nil, mux)
	ctx := testkit.Context(t)
	for _, size := range []int{0, 1000, 1 << 20} {
		sent.Store(0)
		next, stop := iter.Pull2(flood.Call(ctx, a, size))
		_, err, ok := next() // and no more
		require.True(t, ok)
		require.NoError(t, err)
		settled := func() bool {
			before := sent.Load()
			time.Sleep(20 * time.Millisecond)
			return sent.Load() == before
		}
		testkit.Eventually(t, "the sender stops", settled)
		assert.LessOrEqual(t, sent.Load(), int64(3+128<<10/32), "size %d", size)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				n := 0
				for _, err := range count.Call(ctx, a, 200) {
					assert.NoError(t, err)
					n++
				}
				assert.Equal(t, 200, n)
			})
		}
		wg.Wait()
		_, err = echo.Call(ctx, a, word{strings.Repeat("x", 10<<20)})
		assert.NoError(t, err, "a large message beside the unread stream")
		stop()
	}
}

// Small calls come between the parts of large messages in both directions.
func TestStream_LargeMessagesDoNotBlockSmallOnes(t *testing.T) {
	a, _ := pair(t, nil, echoes())
	ctx, cancel := context.WithCancel(testkit.Context(t))
	large := word{strings.Repeat("x", 8<<20)}
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := echo.Call(ctx, a, large); err == nil {
					done.Add(1)
				}
			}
		})
	}
	small := 0
	for done.Load() < 2 {
		_, err := echo.Call(context.Background(), a, word{"small"})
		require.NoError(t, err)
		small++
	}
	cancel()
	wg.Wait()
	assert.Greater(t, small, 20, "small calls during 2 large ones")
}

// The memory for large messages is enough for two of them. Ten wait for their turn,
// and none waits for ever.
func TestStream_LargeMessagesShareTheMemory(t *testing.T) {
	mux := echoes()
	a, b := pairWith(t, call.Config{Memory: 4 << 20, MaxMessage: 1 << 20}, mux, mux)
	ctx := testkit.Context(t)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			conn := []*call.Conn{a, b}[i%2]
			for range 2 {
				w, err := echo.Call(ctx, conn, word{strings.Repeat("x", 1<<20-100)})
				assert.NoError(t, err)
				assert.Len(t, w.Text, 1<<20-100)
			}
		})
	}
	wg.Wait()
}

func TestStream_DeathOfThePeerEndsIt(t *testing.T) {
	_, conn := spawnServer(t, nil, forkspawn.Config{})
	ctx := testkit.Context(t)
	s, err := loud.Open(ctx, conn)
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.Send(word{"x"}))
	_, err = s.Recv()
	require.NoError(t, err)
	failed := testkit.Background(t, func() error {
		_, err := s.Recv()
		return err
	})
	_, err = crash.Call(ctx, conn, word{})
	require.Error(t, err)
	assertExit(t, failed(), 2)
	testkit.Receive(t, conn.Done())
	assertExit(t, s.Send(word{}), 2)
}

// Closing races with every other operation.
func TestStream_CloseRaces(t *testing.T) {
	a, _ := pairWith(t, call.Config{CancelGrace: testkit.Patience}, nil, streams())
	until := time.Now().Add(testTime)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 0; time.Now().Before(until); n++ {
				ctx, cancel := context.WithCancel(context.Background())
				s, err := loud.Open(ctx, a)
				if !assert.NoError(t, err) {
					cancel()
					return
				}
				var users sync.WaitGroup
				users.Go(func() {
					for s.Send(word{strings.Repeat("x", n%3*40_000)}) == nil {
						runtime.Gosched()
					}
				})
				users.Go(func() {
					for _, err := range s.All() {
						if err != nil && !errors.Is(err, context.Canceled) &&
							!errors.Is(err, call.ErrClosed) {
							t.Error(err)
						}
					}
				})
				time.Sleep(time.Duration(n%50*10) * time.Microsecond)
				if i%2 == 0 {
					s.Close()
				} else {
					cancel()
				}
				users.Wait()
				assert.NoError(t, s.Close())
				cancel()
			}
		})
	}
	wg.Wait()
	_, err := echo.Call(testkit.Context(t), a, word{"still works"})
	assert.NoError(t, err)
}

// A cancelled call gives back the memory of an unread large message.
func TestStream_UnreadMessagesKeepNoMemory(t *testing.T) {
	mux := echoes()
	gift := call.NewBidi[word, word]("gift")
	gift.Handle(mux, func(ctx context.Context, s *call.Stream[word, word]) error {
		s.Send(word{strings.Repeat("x", 100_000)})
		<-ctx.Done()
		return ctx.Err()
	})
	a, _ := pairWith(t, call.Config{Memory: 400_000, MaxMessage: 150_000}, nil, mux)
	for i := range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := gift.Open(ctx, a)
		require.NoError(t, err)
		time.AfterFunc(time.Duration(i%200)*time.Microsecond, cancel) // at each moment
		for err == nil {
			_, err = s.Recv()
		}
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, s.Close())
	}
	want := word{strings.Repeat("x", 100_000)}
	got, err := echo.Call(testkit.Context(t), a, want)
	require.NoError(t, err)
	assert.True(t, want == got)
}

func TestStream_AfterCloseIsClosed(t *testing.T) {
	a, _ := pair(t, nil, streams())
	ctx := testkit.Context(t)
	for _, ends := range []bool{false, true} { // before Close
		s, err := loud.Open(ctx, a)
		require.NoError(t, err)
		require.NoError(t, s.Send(word{"text"}))
		_, err = s.Recv()
		require.NoError(t, err)
		if ends {
			require.NoError(t, s.CloseSend())
			_, err = s.Recv()
			require.ErrorIs(t, err, io.EOF)
		}
		require.NoError(t, s.Close())
		assert.Equal(t, call.ErrClosed, s.Send(word{}))
		_, err = s.Recv()
		assert.Equal(t, call.ErrClosed, err)
	}
}
