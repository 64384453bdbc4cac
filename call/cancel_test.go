package call_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// stuck is a method. Its handler waits for the end of its context, reports the cause,
// and returns after finish.
type stuck struct {
	began  chan struct{}
	cause  chan error
	finish chan struct{}
}

func newStuck(mux *call.Mux) *stuck {
	s := &stuck{make(chan struct{}, 100), make(chan error, 100), make(chan struct{})}
	echo.Handle(mux, func(ctx context.Context, _ word) (word, error) {
		s.began <- struct{}{}
		<-ctx.Done()
		s.cause <- context.Cause(ctx)
		<-s.finish
		return word{}, ctx.Err()
	})
	return s
}

func TestCancel_EndsWithTheHandlersResult(t *testing.T) {
	mux := call.NewMux()
	s := newStuck(mux)
	a, _ := pairWith(t, call.Config{CancelGrace: testkit.Patience}, nil, mux)
	ctx, cancel := context.WithCancelCause(testkit.Context(t))
	result := testkit.Background(t, func() error {
		_, err := echo.Call(ctx, a, word{})
		return err
	})
	testkit.Receive(t, s.began)
	why := errors.New("the user has left")
	cancel(why)
	cause := testkit.Receive(t, s.cause)
	var by *call.CancelError
	require.ErrorAs(t, cause, &by)
	assert.Contains(t, by.Reason, "the user has left")
	assert.Contains(t, by.By, fmt.Sprintf("[%d]", os.Getpid()))

	returned := make(chan error, 1)
	go func() { returned <- result() }()
	select {
	case err := <-returned:
		t.Fatalf("the call ended before its handler: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(s.finish)
	err := testkit.Receive(t, returned)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, err, why)
	assert.NotErrorIs(t, err, call.ErrStillRunning)
	e := asError(t, err)
	assert.Equal(t, call.CodeCanceled, e.Code)
	assert.Equal(t, by.By, e.CanceledBy)
}

func TestCancel_WithoutAResultMayStillRun(t *testing.T) {
	mux := call.NewMux()
	s := newStuck(mux)
	a, _ := pairWith(t, call.Config{CancelGrace: 20 * time.Millisecond, MaxCalls: 1}, nil, mux)
	t.Cleanup(sync.OnceFunc(func() { close(s.finish) }))
	ctx, cancel := context.WithCancel(testkit.Context(t))
	result := testkit.Background(t, func() error {
		_, err := echo.Call(ctx, a, word{})
		return err
	})
	testkit.Receive(t, s.began)
	cancel()
	err := result()
	assert.ErrorIs(t, err, call.ErrStillRunning)
	assert.ErrorIs(t, err, context.Canceled)

	// The handler still has the only slot.
	short, stop := context.WithTimeout(testkit.Context(t), 50*time.Millisecond)
	defer stop()
	_, err = echo.Call(short, a, word{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.NotErrorIs(t, err, call.ErrStillRunning, "the call did not begin")
	assert.Empty(t, s.began)
	s.finish <- struct{}{}
	next, stopNext := context.WithCancel(testkit.Context(t))
	second := testkit.Background(t, func() error {
		_, err := echo.Call(next, a, word{})
		return err
	})
	testkit.Receive(t, s.began)
	stopNext()
	assert.Error(t, second())
}

// The one who cancelled first is known to the last handler of a relayed call.
func TestCancel_PassesRelaysWithItsName(t *testing.T) {
	mux := call.NewMux()
	s := newStuck(mux)
	close(s.finish)
	far, _ := pair(t, nil, mux)
	relay := call.NewUnary[word, word]("relay")
	middle := call.NewMux()
	relay.Handle(middle, func(ctx context.Context, w word) (word, error) {
		return echo.Call(ctx, far, w)
	})
	near, _ := pair(t, nil, middle)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	result := testkit.Background(t, func() error {
		_, err := relay.Call(ctx, near, word{})
		return err
	})
	testkit.Receive(t, s.began)
	cancel()
	var by *call.CancelError
	require.ErrorAs(t, testkit.Receive(t, s.cause), &by)
	e := asError(t, result())
	assert.Equal(t, call.CodeCanceled, e.Code)
	assert.Equal(t, by.By, e.CanceledBy)
	assert.Equal(t, []string{"relay", "echo"}, e.Path)
}

func TestDeadline_TravelsAsTheTimeThatRemains(t *testing.T) {
	mux := call.NewMux()
	left := make(chan time.Duration, 1)
	causes := make(chan error, 1)
	echo.Handle(mux, func(ctx context.Context, _ word) (word, error) {
		deadline, ok := ctx.Deadline()
		assert.True(t, ok)
		left <- time.Until(deadline)
		<-ctx.Done()
		causes <- ctx.Err()
		return word{}, ctx.Err()
	})
	a, _ := pairWith(t, call.Config{CancelGrace: testkit.Patience}, nil, mux)
	ctx, cancel := context.WithTimeout(testkit.Context(t), 300*time.Millisecond)
	defer cancel()
	_, err := echo.Call(ctx, a, word{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, call.CodeDeadline, asError(t, err).Code)
	remains := testkit.Receive(t, left)
	assert.LessOrEqual(t, remains, 300*time.Millisecond)
	assert.Positive(t, remains)
	assert.ErrorIs(t, testkit.Receive(t, causes), context.DeadlineExceeded)
}

func TestDeadline_NoneWithoutOne(t *testing.T) {
	mux := call.NewMux()
	echo.Handle(mux, func(ctx context.Context, w word) (word, error) {
		_, ok := ctx.Deadline()
		assert.False(t, ok)
		assert.NoError(t, ctx.Err())
		return w, nil
	})
	a, _ := pair(t, nil, mux)
	_, err := echo.Call(context.Background(), a, word{})
	assert.NoError(t, err)
}

// A handler may succeed although it was cancelled. Then the caller gets all messages.
func TestCancel_SuccessComesAfterIt(t *testing.T) {
	mux := call.NewMux()
	began := make(chan struct{}, 2)
	sum.Handle(mux, func(ctx context.Context, _ iter.Seq2[int, error]) (int, error) {
		began <- struct{}{}
		<-ctx.Done()
		return 42, nil
	})
	count.Handle(mux, func(ctx context.Context, n int, send func(int) error) error {
		for i := range n {
			assert.NoError(t, send(i))
		}
		began <- struct{}{}
		<-ctx.Done()
		return nil
	})
	a, _ := pairWith(t, call.Config{CancelGrace: testkit.Patience}, nil, mux)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	total := testkit.Background(t, func() error {
		n, err := sum.Call(ctx, a, numbers(0))
		assert.Equal(t, 42, n)
		return err
	})
	loop := testkit.Background(t, func() error {
		n := 0
		for i, err := range count.Call(ctx, a, 100) {
			assert.NoError(t, err)
			if n++; i == 0 {
				testkit.Receive(t, began)
				testkit.Receive(t, began)
				cancel()
			}
		}
		assert.Equal(t, 100, n)
		return nil
	})
	assert.NoError(t, total())
	assert.NoError(t, loop())
}
