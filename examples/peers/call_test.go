//go:build unix

package peers_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The methods of entry calls.
var (
	callEcho  = call.NewUnary[string, string]("echo")
	callRead  = call.NewUnary[string, string]("read")
	callCount = call.NewServerStream[int, int]("count")
	callAsk   = call.NewUnary[string, string]("ask") // calls upper of the parent
	callSum   = call.NewUnary[int, int]("sum")       // adds the numbers of the parent
	callWait  = call.NewUnary[string, string]("wait")
	callRelay = call.NewUnary[int, string]("relay") // calls add, loud and shell of the parent

	// Of both.
	callAdd   = call.NewClientStream[int, int]("add")
	callLoud  = call.NewBidi[string, string]("loud")
	callShell = call.NewSession[int, string, string]("shell") // begins with the process id

	callUpper   = call.NewUnary[string, string]("upper")
	callNumbers = call.NewServerStream[int, int]("numbers")
)

// withCalls starts a child with entry calls.
func withCalls(t *testing.T, l language) *call.Conn {
	child, err := newSpawner(t, l, forkspawn.Config{}).Spawn(t.Context(),
		spawnspec.Spec{Entry: "calls"})
	require.NoError(t, err)
	mux := call.NewMux()
	callUpper.Handle(mux, func(_ context.Context, s string) (string, error) {
		return strings.ToUpper(s), nil
	})
	callNumbers.Handle(mux, func(_ context.Context, n int, send func(int) error) error {
		for i := range n {
			if err := send(i); err != nil {
				return err
			}
		}
		return nil
	})
	callAdd.Handle(mux, func(_ context.Context, in iter.Seq2[int, error]) (sum int, err error) {
		for n, err := range in {
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	})
	callLoud.Handle(mux, func(_ context.Context, s *call.Stream[string, string]) error {
		return shout(s)
	})
	callShell.Handle(mux, func(
		_ context.Context, s *call.Stream[string, string], started func(int) error,
	) error {
		return errors.Join(started(77), shout(s))
	})
	conn := call.Config{CancelGrace: testkit.Patience}.New(child, mux)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	return conn
}

func shout(s *call.Stream[string, string]) error {
	for text, err := range s.All() {
		if err != nil {
			return err
		}
		if err := s.Send(strings.ToUpper(text)); err != nil {
			return err
		}
	}
	return nil
}

// Both sides make and serve calls with many requests.
func TestCalls_StreamsOfEachLanguage(t *testing.T) {
	inEach(t, func(t *testing.T, l language) {
		conn := withCalls(t, l)
		ctx := testkit.Context(t)
		sum, err := callAdd.Call(ctx, conn, func(yield func(int) bool) {
			for i := 0; i < 10_000 && yield(i); i++ {
			}
		})
		require.NoError(t, err)
		assert.Equal(t, 9_999*10_000/2, sum)

		s, err := callLoud.Open(ctx, conn)
		require.NoError(t, err)
		for _, n := range []int{1, 40_000, 1 << 20} {
			require.NoError(t, s.Send(strings.Repeat("x", n)))
			got, err := s.Recv()
			require.NoError(t, err)
			require.True(t, strings.Repeat("X", n) == got)
		}
		require.NoError(t, s.CloseSend())
		_, err = s.Recv()
		assert.Equal(t, io.EOF, err)

		pid, s, err := callShell.Open(ctx, conn)
		require.NoError(t, err)
		assert.Positive(t, pid)
		require.NoError(t, s.Send("hello"))
		got, err := s.Recv()
		require.NoError(t, err)
		assert.Equal(t, "HELLO", got)
		assert.NoError(t, s.Close(), "cancels it")

		got, err = callRelay.Call(ctx, conn, 10_000)
		require.NoError(t, err)
		assert.Equal(t, "49995000 77 WORD 0 WORD 1 WORD 2 BYE", got)
	})
}

func TestCalls_OfEachLanguage(t *testing.T) {
	inEach(t, func(t *testing.T, l language) {
		conn := withCalls(t, l)
		ctx := testkit.Context(t)
		for _, n := range []int{0, 10, 40_000, 3 << 20} {
			text := strings.Repeat("x", n)
			got, err := callEcho.Call(ctx, conn, text)
			require.NoError(t, err)
			require.True(t, text == got, "%d bytes", n)
		}
		got, err := callAsk.Call(ctx, conn, "are you there")
		require.NoError(t, err)
		assert.Equal(t, "ARE YOU THERE!", got)
		sum, err := callSum.Call(ctx, conn, 10_000)
		require.NoError(t, err)
		assert.Equal(t, 9_999*10_000/2, sum)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				n := 0
				for i, err := range callCount.Call(ctx, conn, 3000) {
					if !assert.NoError(t, err) || !assert.Equal(t, n, i) {
						return
					}
					n++
				}
				assert.Equal(t, 3000, n)
			})
		}
		wg.Wait()
	})
}

func TestCalls_ErrorsAndCancelsOfEachLanguage(t *testing.T) {
	inEach(t, func(t *testing.T, l language) {
		conn := withCalls(t, l)
		ctx := testkit.Context(t)
		_, err := callRead.Call(ctx, conn, "/no/such/file")
		assert.ErrorIs(t, err, fs.ErrNotExist)
		assert.ErrorIs(t, err, syscall.ENOENT)
		_, err = call.NewUnary[string, string]("none").Call(ctx, conn, "")
		var e *call.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, call.CodeUnimplemented, e.Code)

		for i, err := range callCount.Call(ctx, conn, 1_000_000) {
			require.NoError(t, err)
			if i == 1000 {
				break
			}
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err = callWait.Call(short, conn, "")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, call.ErrStillRunning)
		_, err = callEcho.Call(ctx, conn, "still works")
		assert.NoError(t, err)
	})
}
