package forkspawn

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRestartsAreCountedWithinTheirWindow(t *testing.T) {
	policy, err := RestartPolicy{When: RestartAlways, MinPause: time.Second, MaxPause: 5 * time.Second, Limit: 4, Window: time.Minute}.withDefaults()
	require.NoError(t, err)
	r := restarts{policy: policy}
	now := time.Now()
	crash := errors.New("crash")
	var pauses []time.Duration
	for range 4 {
		info, again, err := r.next("x", crash, now)
		require.NoError(t, err)
		require.True(t, again)
		pauses = append(pauses, info.Pause)
		now = now.Add(info.Pause)
	}
	assert.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second}, pauses)
	_, again, err := r.next("x", crash, now)
	assert.False(t, again)
	var often *RestartError
	require.ErrorAs(t, err, &often)
	assert.ErrorIs(t, err, crash)
	assert.Equal(t, 4, often.Restarts)

	// A child that then lived for longer than the window begins anew.
	info, again, err := r.next("x", crash, now.Add(2*time.Minute))
	require.NoError(t, err)
	assert.True(t, again)
	assert.Equal(t, 1, info.Restarts)
	assert.Equal(t, time.Second, info.Pause)
}

func TestNoLimitMeansNone(t *testing.T) {
	policy, err := RestartPolicy{When: RestartAlways, Limit: -1}.withDefaults()
	require.NoError(t, err)
	r := restarts{policy: policy}
	now := time.Now()
	for range 1000 {
		info, again, err := r.next("x", nil, now)
		require.NoError(t, err)
		require.True(t, again)
		require.LessOrEqual(t, info.Pause, DefaultMaxPause)
	}
}

func TestOnePauseAloneCanBeSet(t *testing.T) {
	for _, set := range []RestartPolicy{{MaxPause: time.Millisecond}, {MinPause: time.Hour}} {
		policy, err := set.withDefaults()
		require.NoError(t, err)
		assert.Equal(t, set.MinPause+set.MaxPause, policy.MinPause)
		assert.Equal(t, set.MinPause+set.MaxPause, policy.MaxPause)
	}
}
