package growth

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

func TestMain(m *testing.M) {
	peer.Init()
	spawntest.Main(m)
}

func TestGrowth_PointPerNumber(t *testing.T) {
	spawntest.NoLeaks(t)
	check := func(names []string, lines []Line, err error, numbers ...int) {
		t.Helper()
		require.NoError(t, err)
		require.Len(t, lines, len(names))
		for _, l := range lines {
			require.Len(t, l.Points, len(numbers), l.Peer)
			for i, p := range l.Points {
				assert.Equal(t, numbers[i], p.N)
			}
			assert.Positive(t, l.Points[len(numbers)-1].Op, l.Peer)
		}
	}
	opt := measure.Options{Rounds: 1, Turn: time.Millisecond, Progress: func(string) {}}
	lines, err := Channels(t.Context(), []int{1, 20}, opt)
	check(channelWays, lines, err, 1, 20)
	lines, err = Messages(t.Context(), []int{10, 20_000}, func(string) {})
	check(messageWays, lines, err, 10, 20_000)
}
