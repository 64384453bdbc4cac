package spawn

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

func TestSpawn_EveryCompetitor(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, Build(t.Context(), dir, func(string) {}))
	spawntest.NoLeaks(t)
	rows, err := Measure(t.Context(), dir, 2, func(string) {})
	require.NoError(t, err)
	require.Len(t, rows, 5)
	for _, row := range rows {
		assert.Empty(t, row.Error, row.Name)
		assert.Positive(t, row.Ratio.P50, row.Name)
		require.Len(t, row.Phases, len(PhaseNames))
		sum := 0.0
		for _, p := range row.Phases {
			sum += p
		}
		assert.InEpsilon(t, row.Total.P50, sum, 0.01,
			"%s: the median and the mean of two starts are equal", row.Name)
	}
	assert.InDelta(t, 1, rows[0].Ratio.P50, 1e-9, "the ratio of the floor")
}

func TestPhases_AddUp(t *testing.T) {
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	ms := time.Millisecond
	assert.Equal(t, Phases{1 * ms, 2 * ms, 3 * ms, 4 * ms},
		phases(at(0), at(1), at(3), at(6), at(10)))
	assert.Equal(t, Phases{5 * ms, 0, 1 * ms, 4 * ms}, phases(at(0), at(5), at(3), at(6), at(10)),
		"Start has returned after the start of the child's main")
	assert.Equal(t, Phases{1 * ms, 9 * ms, 0, 0}, phases(at(0), at(1), at(12), at(6), at(10)),
		"the clock of the child is ahead")
}
