package inspect

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/values"
)

// newServer returns a Server with an answer, and the frames sent by it.
func newServer(t *testing.T, answer func(context.Context, frame.Inspect) ([]byte, error),
) (*Server, <-chan frame.Inspected) {
	sent := make(chan frame.Inspected, 100)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	t.Cleanup(func() { cancel(); work.Wait() })
	return &Server{Context: ctx, Go: work.Go, Answer: answer,
		Write: func(_ context.Context, f frame.Frame) error {
			a, err := frame.ParseInspected(f.Body)
			assert.NoError(t, err)
			sent <- a
			return nil
		}}, sent
}

func TestServer_SendsAPartForEachQuestion(t *testing.T) {
	whole := bytes.Repeat([]byte("0123456789"), 5000)
	s, sent := newServer(t, func(context.Context, frame.Inspect) ([]byte, error) {
		return bytes.Clone(whole), nil
	})
	var got []byte
	s.Handle(frame.Inspect{ID: 3, What: Tree, Bound: time.Minute}.Frame().Body)
	for {
		a := testkit.Receive(t, sent)
		require.Equal(t, uint64(3), a.ID)
		require.LessOrEqual(t, len(a.Part), frame.MaxPart)
		require.Empty(t, sent, "nothing is sent without a question")
		got = append(got, a.Part...)
		require.Equal(t, len(whole)-len(got), int(a.Left))
		if a.Left == 0 {
			break
		}
		s.Handle(frame.Inspect{ID: 3}.Frame().Body)
	}
	assert.Equal(t, whole, got)
}

func TestServer_SendsErrors(t *testing.T) {
	s, sent := newServer(t, func(context.Context, frame.Inspect) ([]byte, error) {
		return nil, errors.New("not today")
	})
	s.Handle(frame.Inspect{ID: 1, What: Tree, Bound: time.Minute}.Frame().Body)
	assert.Equal(t, frame.Inspected{ID: 1, Error: "not today"}, testkit.Receive(t, sent))
	s.Handle(frame.Inspect{ID: 9}.Frame().Body) // more of an answer that is not there
	assert.Equal(t, uint64(9), testkit.Receive(t, sent).ID)
	s.Handle([]byte("\xff")) // is dropped
}

func TestServer_TakesABoundedNumberOfQuestions(t *testing.T) {
	asked := make(chan struct{}, 100)
	s, sent := newServer(t, func(ctx context.Context, _ frame.Inspect) ([]byte, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	for id := range uint64(frame.MaxInspections + 5) {
		s.Handle(frame.Inspect{ID: id, What: Tree, Bound: time.Second / 10}.Frame().Body)
	}
	for range frame.MaxInspections {
		testkit.Receive(t, asked)
		assert.Contains(t, testkit.Receive(t, sent).Error, "deadline")
	}
	assert.Empty(t, asked)
}

func TestCollect_NamesWhoHasNotAnswered(t *testing.T) {
	silent := func(ctx context.Context, _ frame.Inspect, _ int) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	garbage := func(context.Context, frame.Inspect, int) ([]byte, error) {
		return []byte("\xff"), nil
	}
	view := func() View {
		return View{Self: Process{Name: "root"}, Children: []Child{
			{Process: Process{ID: "1", Name: "asleep"}, Ask: silent},
			{Process: Process{ID: "2", Name: "odd"}, Ask: garbage},
			{Process: Process{ID: "3", Name: "deaf", Silent: "cannot hear"}},
			{Process: Process{ID: "4", Name: "here"}},
		}}
	}
	q := frame.Inspect{What: Stacks, Bound: time.Second / 10}
	r := Collect(testkit.Context(t), q, view())
	assert.Equal(t, 1, r.Asked)
	require.Len(t, r.Silent, 3)
	assert.Equal(t, "no answer in 85ms", r.Silent[0].Why)
	assert.Equal(t, "odd", r.Silent[1].Name)
	assert.Equal(t, "cannot hear", r.Silent[2].Why)
	q.What = Tree
	r = Collect(testkit.Context(t), q, view())
	require.Len(t, r.Processes, 5)
	assert.Equal(t, "no answer in 85ms", r.Processes[1].Silent)
	assert.Empty(t, r.Processes[4].Silent)
}

func TestClean_KeepsTheEndAsText(t *testing.T) {
	assert.Equal(t, "a\uFFFDb", Clean("a\xffb"))
	assert.Equal(t, strings.Repeat("x", MaxText-1)+"y", Clean(strings.Repeat("x", MaxText)+"y"))
}

// A child cannot put processes beside itself: the root could stop them there.
func TestCollect_KeepsReportsBelowTheirChild(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, values.Encode(&b, Report{Processes: []Process{
		{ID: "1"}, {ID: "x", Parent: "0", Stop: true}, {ID: "y", Parent: "x", Restart: true},
	}}))
	child := Child{Process: Process{ID: "1", Parent: "0", Stop: true}}
	child.Ask = func(context.Context, frame.Inspect, int) ([]byte, error) { return b.Bytes(), nil }
	r := Collect(testkit.Context(t), frame.Inspect{What: Tree, Bound: time.Minute},
		View{Self: Process{ID: "0"}, Children: []Child{child}})
	tree := NewSnapshot(r).Processes
	require.Len(t, tree, 4)
	assert.True(t, tree[1].Stop)
	for depth, p := range tree {
		assert.Equal(t, depth, p.Depth, p.ID)
	}
	assert.False(t, tree[2].Stop || tree[3].Restart)
}
