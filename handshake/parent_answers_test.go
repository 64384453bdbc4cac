package handshake

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// asked returns a Peer with the feature inspect, and the child's end of its control
// connection.
func asked(t *testing.T) (peerInternals, frame.Channel) {
	near, far := testkit.Unix(t)
	p := &Peer{inspects: true, attached: make(chan struct{}), control: newChannel(near, nil)}
	close(p.attached)
	return p.Internal(access.Key{}), frames(newChannel(far, nil))
}

// question reads a question of the parent.
func question(t *testing.T, child frame.Channel) frame.Inspect {
	f, err := child.Read(testkit.Context(t))
	require.NoError(t, err)
	require.Equal(t, frame.KindInspect, f.Kind)
	q, err := frame.ParseInspect(f.Body)
	require.NoError(t, err)
	return q
}

func TestInspect_PingsAndQuestionsShareTheConnection(t *testing.T) {
	parent, child := asked(t)
	ctx := testkit.Context(t)
	var wg sync.WaitGroup
	const many = 4
	for range many {
		wg.Go(func() {
			answer, err := parent.Inspect(ctx, frame.Inspect{What: "tree"}, 100)
			assert.NoError(t, err)
			assert.Equal(t, "one and two", string(answer))
			assert.False(t, parent.Silent(ctx))
		})
	}
	for range 3 * many {
		f, err := child.Read(ctx)
		require.NoError(t, err)
		if f.Kind == frame.KindPing {
			require.NoError(t, child.Write(ctx, frame.Frame{Kind: frame.KindPong, Body: f.Body}))
			continue
		}
		q, err := frame.ParseInspect(f.Body)
		require.NoError(t, err)
		a := frame.Inspected{ID: q.ID, Part: []byte("one "), Left: 7}
		if q.What == "" {
			a = frame.Inspected{ID: q.ID, Part: []byte("and two")}
		}
		require.NoError(t, child.Write(ctx, a.Frame()))
	}
	wg.Wait()
}

func TestInspect_OfAChildThatDoesNotAnswer(t *testing.T) {
	parent, child := asked(t)
	for range 3 * frame.MaxInspections {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		_, err := parent.Inspect(ctx, frame.Inspect{What: "tree"}, 100)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	ctx := testkit.Context(t)
	for range frame.MaxInspections { // and no more of them
		q := question(t, child)
		require.NoError(t, child.Write(ctx, frame.Inspected{ID: q.ID, Error: "late"}.Frame()))
	}
	again := testkit.Background(t, func() error {
		_, err := parent.Inspect(ctx, frame.Inspect{What: "stacks"}, 100)
		return err
	})
	q := question(t, child)
	assert.Equal(t, "stacks", q.What, "none of the others was sent")
	require.NoError(t, child.Write(ctx, frame.Inspected{ID: q.ID, Error: "in time"}.Frame()))
	assert.EqualError(t, again(), "in time")
}

func TestInspect_RefusesLargeAnswers(t *testing.T) {
	for _, a := range []frame.Inspected{
		{Part: make([]byte, 101)}, {Part: []byte{1}, Left: 100}, {Part: []byte{1}, Left: 1 << 63},
		{Left: 3},
	} {
		parent, child := asked(t)
		ctx := testkit.Context(t)
		done := testkit.Background(t, func() error {
			_, err := parent.Inspect(ctx, frame.Inspect{What: "tree"}, 100)
			return err
		})
		a.ID = question(t, child).ID
		require.NoError(t, child.Write(ctx, a.Frame()))
		assert.Error(t, done())
	}
}

// The reason of a failing child is not lost to a look at the same time.
func TestInspect_KeepsTheGoodbye(t *testing.T) {
	parent, child := asked(t)
	ctx := testkit.Context(t)
	done := testkit.Background(t, func() error {
		_, err := parent.Inspect(ctx, frame.Inspect{What: "tree"}, 100)
		return err
	})
	question(t, child)
	require.NoError(t, child.Write(ctx, frame.Goodbye{Status: 3, Reason: "full"}.Frame()))
	child.LetGo()
	assert.ErrorIs(t, done(), transport.ErrPeerGone)
	bye, ok := parent.p.lastWords(ctx)
	assert.True(t, ok)
	assert.Equal(t, frame.Goodbye{Status: 3, Reason: "full"}, bye)
}

func TestInspect_OnlyOfChildrenThatAnswer(t *testing.T) {
	parent, _ := asked(t)
	parent.p.inspects = false
	_, err := parent.Inspect(testkit.Context(t), frame.Inspect{What: "tree"}, 100)
	assert.ErrorIs(t, err, errCannotAnswer)
}
