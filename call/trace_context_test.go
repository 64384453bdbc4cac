package call_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// tracer gives each call a span in its context, as a tracing library does. The text of
// a span has those above it. The metadata "span" takes it to the other side.
type tracer struct {
	mu    sync.Mutex // guards ended
	ended []string
}

type spanKey struct{}

func spanOf(ctx context.Context) string {
	span, _ := ctx.Value(spanKey{}).(string)
	return span
}

func (r *tracer) trace() *call.Trace {
	return &call.Trace{
		Began: func(ctx context.Context, e call.Event) context.Context {
			if e.Incoming {
				return context.WithValue(ctx, spanKey{},
					call.MetadataOf(ctx)["span"]+" in "+e.Method)
			}
			span := strings.TrimSpace(spanOf(ctx) + " out " + e.Method)
			m := call.Metadata{}
			maps.Copy(m, call.MetadataOf(ctx))
			m["span"] = span
			return call.WithMetadata(context.WithValue(ctx, spanKey{}, span), m)
		},
		Ended: func(ctx context.Context, _ call.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.ended = append(r.ended, spanOf(ctx))
		},
	}
}

// tracedPair returns a Conn to another one, both with the trace.
func tracedPair(t *testing.T, trace *call.Trace, a, b *call.Mux) *call.Conn {
	t.Helper()
	conn, _ := pairWith(t, call.Config{Trace: trace}, a, b)
	return conn
}

// asking has a method of each kind. Each handler calls its caller's echo, and note gets
// its context.
func asking(note func(ctx context.Context)) *call.Mux {
	mux := call.NewMux()
	asks := func(ctx context.Context) error {
		note(ctx)
		_, err := echo.Call(ctx, call.ConnOf(ctx), word{})
		return err
	}
	ask.Handle(mux, func(ctx context.Context, w word) (word, error) { return w, asks(ctx) })
	count.Handle(mux, func(ctx context.Context, n int, send func(int) error) error {
		return errors.Join(asks(ctx), send(n))
	})
	sum.Handle(mux, func(ctx context.Context, in iter.Seq2[int, error]) (int, error) {
		for _, err := range in {
			if err != nil {
				return 0, err
			}
		}
		return 0, asks(ctx)
	})
	loud.Handle(mux, func(ctx context.Context, s *call.Stream[word, word]) error {
		return errors.Join(asks(ctx), shout(s))
	})
	shell.Handle(mux, func(
		ctx context.Context, s *call.Stream[word, word], started func(int) error,
	) error {
		return errors.Join(started(1), asks(ctx), shout(s))
	})
	return mux
}

// callEach calls a method of each kind.
func callEach(ctx context.Context, t *testing.T, c *call.Conn) {
	t.Helper()
	_, err := ask.Call(ctx, c, word{})
	require.NoError(t, err)
	for _, err := range count.Call(ctx, c, 1) {
		require.NoError(t, err)
	}
	_, err = sum.Call(ctx, c, func(yield func(int) bool) { yield(1) })
	require.NoError(t, err)
	s, err := loud.Open(ctx, c)
	require.NoError(t, err)
	readAll(t, s)
	_, s, err = shell.Open(ctx, c)
	require.NoError(t, err)
	readAll(t, s)
}

func readAll(t *testing.T, s *call.Stream[word, word]) {
	t.Helper()
	require.NoError(t, s.CloseSend())
	for _, err := range s.All() {
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
}

func TestTrace_ContextGoesThroughACallAndBack(t *testing.T) {
	var r tracer
	seen := make(chan string, 5)
	a := tracedPair(t, r.trace(), echoes(), asking(func(ctx context.Context) {
		m := call.MetadataOf(ctx)
		assert.Equal(t, "kept", m["other"])
		seen <- m["span"] + ";" + spanOf(ctx)
	}))
	ctx := call.WithMetadata(testkit.Context(t), call.Metadata{"other": "kept"})
	callEach(ctx, t, a)
	require.NoError(t, a.Close())

	var spans []string
	for _, m := range []string{"ask", "count", "sum", "loud", "shell"} {
		assert.Equal(t, "out "+m+";out "+m+" in "+m, testkit.Receive(t, seen))
		inner := "out " + m + " in " + m + " out echo"
		spans = append(spans, inner+" in echo", inner, "out "+m+" in "+m, "out "+m)
	}
	testkit.Eventually(t, "the ends of all calls", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ended) == len(spans)
	})
	assert.ElementsMatch(t, spans, r.ended)
	assert.Empty(t, spanOf(ctx))
}

// A context of Began that is derived from a handler's is one in all else.
func TestTrace_HandlersContextEndsAsWithoutATrace(t *testing.T) {
	var r tracer
	began, cause := make(chan time.Time, 1), make(chan error, 1)
	mux := call.NewMux()
	hang.Handle(mux, func(ctx context.Context, w word) (word, error) {
		deadline, _ := ctx.Deadline()
		assert.NoError(t, ctx.Err())
		assert.NoError(t, context.Cause(ctx))
		assert.NotNil(t, call.ConnOf(ctx))
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		began <- deadline
		<-inner.Done()
		cause <- context.Cause(ctx)
		return w, ctx.Err()
	})
	a := tracedPair(t, r.trace(), nil, mux)

	ctx, cancel := context.WithCancel(testkit.Context(t))
	failed := testkit.Background(t, func() error {
		_, err := hang.Call(ctx, a, word{})
		return err
	})
	testkit.Receive(t, began)
	cancel()
	assert.Equal(t, call.CodeCanceled, asError(t, failed()).Code)
	assert.ErrorAs(t, testkit.Receive(t, cause), new(*call.CancelError))

	ctx, cancel = context.WithTimeout(testkit.Context(t), 100*time.Millisecond)
	defer cancel()
	want, _ := ctx.Deadline()
	_, err := hang.Call(ctx, a, word{})
	assert.Equal(t, call.CodeDeadline, asError(t, err).Code)
	assert.ErrorIs(t, testkit.Receive(t, cause), context.DeadlineExceeded)
	assert.WithinDuration(t, want, testkit.Receive(t, began), testkit.Patience)
}

func TestTrace_NilContextIsTheCallers(t *testing.T) {
	trace := &call.Trace{
		Began: func(context.Context, call.Event) context.Context { return nil },
		Ended: func(ctx context.Context, _ call.Event) {
			assert.Equal(t, "kept", call.MetadataOf(ctx)["other"])
		},
	}
	a := tracedPair(t, trace, echoes(), asking(func(ctx context.Context) {
		assert.Equal(t, "kept", call.MetadataOf(ctx)["other"])
	}))
	callEach(call.WithMetadata(testkit.Context(t), call.Metadata{"other": "kept"}), t, a)
}

// A call that cannot be encoded has an end, too.
func TestTrace_EndsACallThatWasNotEncoded(t *testing.T) {
	var codes []call.Code
	trace := &call.Trace{
		Began: func(ctx context.Context, _ call.Event) context.Context {
			return call.WithMetadata(ctx, call.Metadata{"large": strings.Repeat("x", 5000)})
		},
		Ended: func(_ context.Context, e call.Event) {
			assert.Error(t, e.Err)
			codes = append(codes, e.Code)
		},
	}
	a := tracedPair(t, trace, nil, echoes())
	ctx := testkit.Context(t)
	_, err := echo.Call(ctx, a, word{})
	assert.Equal(t, call.CodeTooLarge, asError(t, err).Code)
	for _, err := range count.Call(ctx, a, 1) {
		assert.Equal(t, call.CodeTooLarge, asError(t, err).Code)
	}
	_, err = loud.Open(ctx, a)
	assert.Equal(t, call.CodeTooLarge, asError(t, err).Code)
	trace.Began = nil
	_, err = call.NewUnary[chan int, word]("echo").Call(ctx, a, nil)
	assert.Equal(t, call.CodeInvalid, asError(t, err).Code)
	large := call.CodeTooLarge
	assert.Equal(t, []call.Code{large, large, large, call.CodeInvalid}, codes)
}

// Both sides have the same code for an error of the handler.
func TestTrace_HasTheCodeOfAnError(t *testing.T) {
	for _, test := range []struct {
		err  error
		code call.Code
	}{
		{errQuota, call.CodeFailed},
		{context.DeadlineExceeded, call.CodeDeadline},
		{&call.Error{Code: "busy", Text: "no time"}, "busy"},
		{nil, ""},
	} {
		codes := make(chan call.Code, 2)
		trace := &call.Trace{Ended: func(_ context.Context, e call.Event) { codes <- e.Code }}
		mux := call.NewMux()
		echo.Handle(mux, func(_ context.Context, w word) (word, error) { return w, test.err })
		a := tracedPair(t, trace, nil, mux)
		_, err := echo.Call(testkit.Context(t), a, word{})
		assert.Equal(t, test.err == nil, err == nil)
		assert.Equal(t, test.code, testkit.Receive(t, codes), "%v", test.err)
		assert.Equal(t, test.code, testkit.Receive(t, codes), "%v", test.err)
	}
}
