//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// restart has the arguments of Trace.Restarting.
type restart struct {
	number int
	pause  time.Duration
	cause  error
}

// recorder counts the starts, and collects the restarts.
type recorder struct {
	mu       sync.Mutex
	restarts []restart
	starts   int
}

func (r *recorder) trace() *forkspawn.Trace {
	return &forkspawn.Trace{
		Started: func(forkspawn.ChildEvent) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.starts++
		},
		Restarting: func(_ forkspawn.ChildEvent, number int, pause time.Duration, cause error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.restarts = append(r.restarts, restart{number, pause, cause})
		},
	}
}

func TestRestart_CrashAtEveryBootEndsInAClearError(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure, MaxRestarts: 3, MinPause: time.Millisecond,
		MaxPause: 3 * time.Millisecond,
	})
	require.NoError(t,
		g.Go(spawnspec.Spec{Name: "crasher"}, nil, forkspawn.WithCommand(roles.Command("exits-3"))))
	err := waitFor(t, g)
	var often *forkspawn.RestartError
	require.ErrorAs(t, err, &often)
	assert.Equal(t, "crasher", often.Name)
	assert.Equal(t, 3, often.Restarts)
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot, "the last failure is in it")
	assert.Equal(t, forkspawn.ExitedStatus(3), boot.Status)
	assert.ErrorContains(t, err, "cannot open the moon")

	require.Len(t, r.restarts, 3)
	assert.Equal(t, 4, r.starts)
	for i, info := range r.restarts {
		assert.Equal(t, i+1, info.number)
		assert.ErrorIs(t, info.cause, forkspawn.ErrDied, "the reason of each")
	}
	assert.Equal(t, []time.Duration{time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond},
		[]time.Duration{r.restarts[0].pause, r.restarts[1].pause, r.restarts[2].pause},
		"a back-off")
}

func TestRestart_OnFailureStopsAtSuccess(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{Restart: forkspawn.RestartOnFailure, MinPause: 1})
	lives := 0
	mine := errors.New("not yet")
	require.NoError(t,
		g.Go(spawnspec.Spec{Entry: "echo"}, func(context.Context, *forkspawn.Child) error {
			if lives++; lives < 3 {
				return mine
			}
			return nil
		}))
	require.NoError(t, waitFor(t, g))
	assert.Equal(t, 3, lives)
	require.Len(t, r.restarts, 2)
	assert.ErrorIs(t, r.restarts[1].cause, mine)
}

func TestRestart_AlwaysGoesOnUntilTheGroupEnds(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s,
		forkspawn.GroupConfig{Restart: forkspawn.RestartAlways, MinPause: 1,
			MaxPause: 1, MaxRestarts: -1})
	why := errors.New("ten are enough")
	lives := 0
	require.NoError(t,
		g.Go(spawnspec.Spec{Entry: "exits", Args: 0},
			func(ctx context.Context, _ *forkspawn.Child) error {
				if lives++; lives == 10 {
					g.Cancel(why)
				}
				<-ctx.Done()
				return nil
			}))
	assert.ErrorIs(t, waitFor(t, g), why)
	assert.Equal(t, 10, lives)
	for _, info := range r.restarts {
		assert.NoError(t, info.cause, "it ended well")
	}
}

func TestRestart_NeverIsTheDefault(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "panics"}, nil))
	assert.ErrorContains(t, waitFor(t, g), "at the disco")
	assert.Equal(t, 1, r.starts)
	assert.Empty(t, r.restarts)
}

// After its deadline a child would have no time for its work, so it is not
// started again.
func TestRestart_NotAfterTheDeadline(t *testing.T) {
	var r recorder
	s := newSpawner(t, forkspawn.Config{Trace: r.trace()})
	g := newGroup(t, s, forkspawn.GroupConfig{
		Restart: forkspawn.RestartAlways, MaxRestarts: -1, MinPause: time.Millisecond,
	})
	deadline := time.Now().Add(500 * time.Millisecond)
	require.NoError(t, g.Go(spawnspec.Spec{Entry: "waits", Deadline: deadline}, nil))
	waitFor(t, g)
	assert.False(t, time.Now().Before(deadline))
	assert.Empty(t, r.restarts)
}
