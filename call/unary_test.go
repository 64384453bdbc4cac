package call_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

func TestUnary_RepliesToEachCaller(t *testing.T) {
	a, _ := pair(t, nil, echoes())
	ctx := testkit.Context(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for n := range 100 {
				want := word{fmt.Sprintf("%d of %d", n, i)}
				got, err := echo.Call(ctx, a, want)
				if !assert.NoError(t, err) || !assert.Equal(t, want, got) {
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestUnary_LargeMessagesGoBothWays(t *testing.T) {
	a, _ := pair(t, nil, echoes())
	ctx := testkit.Context(t)
	for _, size := range []int{0, 100, 30_000, 33_000, 65_000, 66_000, 1 << 20, 15 << 20} {
		want := word{strings.Repeat("x", size)}
		got, err := echo.Call(ctx, a, want)
		require.NoError(t, err, "%d bytes", size)
		require.Equal(t, size, len(got.Text))
		require.True(t, want == got)
	}
}

func BenchmarkUnary(b *testing.B) {
	a, _ := pair(b, nil, echoes())
	b.ReportAllocs()
	for b.Loop() {
		_, err := echo.Call(context.Background(), a, word{"0123456789012345678901234567"})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// The caller and the callee are both in this process. Each decodes a string, and the
// callee has a call and its place in the map.
func TestUnary_Allocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	a, _ := pair(t, nil, echoes())
	ctx, want := testkit.Context(t), word{"text"}
	got := testing.AllocsPerRun(1000, func() {
		if _, err := echo.Call(ctx, a, want); err != nil {
			t.Fatal(err)
		}
	})
	assert.LessOrEqual(t, got, 4.0)
}

// A handler that streams its replies, to a caller of a Unary of the same name.
func TestUnary_StreamOfRepliesIsAnError(t *testing.T) {
	for _, size := range []int{10, 100_000} {
		mux := call.NewMux()
		ended := make(chan error, 1)
		call.NewServerStream[word, word]("echo").Handle(mux,
			func(_ context.Context, _ word, send func(word) error) error {
				reply := word{strings.Repeat("x", size)}
				for {
					if err := send(reply); err != nil {
						ended <- err
						return err
					}
				}
			})
		a, _ := pair(t, nil, mux)
		_, err := echo.Call(testkit.Context(t), a, word{})
		e := asError(t, err)
		assert.Equal(t, call.CodeInvalid, e.Code)
		assert.Contains(t, e.Error(), "a result of several messages")
		assert.ErrorIs(t, testkit.Receive(t, ended), context.Canceled)
	}
}
