package spawn

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

func TestEveryCompetitorStartsChildren(t *testing.T) {
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
		assert.InEpsilon(t, row.Total.P50, sum, 0.01, "%s: of two starts, median and mean are one", row.Name)
	}
	assert.InDelta(t, 1, rows[0].Ratio.P50, 1e-9, "the floor's own")
}

func TestPhasesAddUpWhateverIsSeenLate(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	ms := time.Millisecond
	assert.Equal(t, Phases{1 * ms, 2 * ms, 3 * ms, 4 * ms}, phases(at(0), at(1), at(3), at(6), at(10)))
	assert.Equal(t, Phases{5 * ms, 0, 1 * ms, 4 * ms}, phases(at(0), at(5), at(3), at(6), at(10)), "Start returned after the child's main began")
	assert.Equal(t, Phases{1 * ms, 9 * ms, 0, 0}, phases(at(0), at(1), at(12), at(6), at(10)), "a clock that is ahead")
}
