package forkspawn

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRestart_CountsWithinItsWindow(t *testing.T) {
	cfg, err := GroupConfig{Restart: RestartAlways, MinPause: time.Second,
		MaxPause: 5 * time.Second, MaxRestarts: 4, Window: time.Minute}.withDefaults()
	require.NoError(t, err)
	r := restarts{cfg: cfg}
	now := time.Now()
	crash := errors.New("crash")
	var pauses []time.Duration
	for range 4 {
		pause, again, err := r.next("x", crash, now)
		require.NoError(t, err)
		require.True(t, again)
		pauses = append(pauses, pause)
		now = now.Add(pause)
	}
	assert.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second},
		pauses)
	_, again, err := r.next("x", crash, now)
	assert.False(t, again)
	var often *RestartError
	require.ErrorAs(t, err, &often)
	assert.ErrorIs(t, err, crash)
	assert.Equal(t, 4, often.Restarts)

	// After a life longer than the window, the count and the pause start again.
	pause, again, err := r.next("x", crash, now.Add(2*time.Minute))
	require.NoError(t, err)
	assert.True(t, again)
	assert.Len(t, r.at, 1)
	assert.Equal(t, time.Second, pause)
}

func TestRestart_NegativeLimitMeansNone(t *testing.T) {
	cfg, err := GroupConfig{Restart: RestartAlways, MaxRestarts: -1}.withDefaults()
	require.NoError(t, err)
	r := restarts{cfg: cfg}
	now := time.Now()
	for range 1000 {
		pause, again, err := r.next("x", nil, now)
		require.NoError(t, err)
		require.True(t, again)
		require.LessOrEqual(t, pause, defaultMaxPause)
	}
}

func TestRestart_OnePauseAloneCanBeSet(t *testing.T) {
	for _, set := range []GroupConfig{{MaxPause: time.Millisecond}, {MinPause: time.Hour}} {
		cfg, err := set.withDefaults()
		require.NoError(t, err)
		assert.Equal(t, set.MinPause+set.MaxPause, cfg.MinPause)
		assert.Equal(t, set.MinPause+set.MaxPause, cfg.MaxPause)
	}
}
