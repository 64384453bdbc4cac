package call_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// recorder keeps the events of a Conn as texts.
type recorder struct {
	mu     sync.Mutex // guards events
	events []string
}

func (r *recorder) trace() *call.Trace {
	add := func(what string) func(context.Context, call.Event) {
		return func(ctx context.Context, e call.Event) {
			side := "out"
			if e.Incoming {
				side = "in"
			}
			if e.Queued < 0 || e.Ran < 0 || e.Queued+e.Ran > testkit.Patience {
				what = "a wrong time"
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, fmt.Sprintf("%s %s %s %d %d %v %s", what, side, e.Method,
				e.Sent, e.Received, e.Err, call.MetadataOf(ctx)["traceparent"]))
		}
	}
	began := add("began")
	return &call.Trace{
		Began: func(ctx context.Context, e call.Event) context.Context {
			began(ctx, e)
			return ctx
		},
		Ended: add("ended"),
	}
}

// next waits for n events and returns them.
func (r *recorder) next(t *testing.T, n int) []string {
	t.Helper()
	testkit.Eventually(t, "events", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.events) >= n
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func TestTrace_HasEachCallOnBothSides(t *testing.T) {
	var near, far recorder
	mux := streams()
	hang.Handle(mux, func(ctx context.Context, _ word) (word, error) {
		<-ctx.Done()
		return word{}, errQuota
	})
	x, y := testkit.Unix(t)
	a := open(t, call.Config{Trace: near.trace()}, transport.New(x, transport.Config{}), nil)
	b := open(t, call.Config{Trace: far.trace()}, transport.New(y, transport.Config{}), mux)
	ctx := call.WithMetadata(testkit.Context(t), call.Metadata{"traceparent": "00-4bf9-00f0-01"})

	_, err := echo.Call(ctx, a, word{"hello"})
	require.NoError(t, err)
	assert.Equal(t, []string{"began out echo 0 0 <nil> 00-4bf9-00f0-01",
		"ended out echo 12 12 <nil> 00-4bf9-00f0-01"}, near.next(t, 2))
	assert.Equal(t, []string{"began in echo 0 0 <nil> 00-4bf9-00f0-01",
		"ended in echo 12 12 <nil> 00-4bf9-00f0-01"}, far.next(t, 2))

	for _, err := range count.Call(ctx, a, 20) {
		require.NoError(t, err)
	}
	assert.Equal(t, "ended out count 1 20 <nil> 00-4bf9-00f0-01", near.next(t, 2)[1])
	assert.Equal(t, "ended in count 20 1 <nil> 00-4bf9-00f0-01", far.next(t, 2)[1])

	_, err = echo.Call(ctx, a, word{strings.Repeat("x", 300_000)})
	require.NoError(t, err)
	assert.Contains(t, near.next(t, 2)[1], "ended out echo 300011 300011 <nil>", "in parts")
	far.next(t, 2)

	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = hang.Call(short, a, word{})
	require.Error(t, err)
	assert.Contains(t, near.next(t, 2)[1], "call: hang: "+errQuota.Error())
	assert.Contains(t, far.next(t, 2)[1], errQuota.Error())

	_, err = echo.Call(short, a, word{})
	require.Error(t, err)
	assert.Contains(t, near.next(t, 2)[1], context.DeadlineExceeded.Error(), "it was not sent")
	_, err = crash.Call(ctx, a, word{})
	require.Error(t, err)
	assert.Contains(t, near.next(t, 2)[1], "no method")

	ended := testkit.Background(t, func() error {
		_, err := hang.Call(ctx, a, word{})
		return err
	})
	near.next(t, 1)
	far.next(t, 1)
	require.NoError(t, a.Close())
	assert.ErrorIs(t, ended(), call.ErrClosed)
	assert.Contains(t, near.next(t, 1)[0], call.ErrClosed.Error())
	require.NoError(t, b.Close())
	assert.Contains(t, far.next(t, 1)[0], errQuota.Error())
}
