package stats

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPercentile_Interpolates(t *testing.T) {
	for _, tc := range []struct {
		name string
		xs   []float64
		p    float64
		want float64
	}{
		{"one value is every percentile", []float64{7}, 99, 7},
		{"the median of an odd number is in the middle, whatever the order", []float64{9, 1, 5}, 50,
			5},
		{"the median of an even number is between the two", []float64{4, 1, 2, 3}, 50, 2.5},
		{"0 is the least", []float64{3, 1, 2}, 0, 1},
		{"100 is the greatest", []float64{3, 1, 2}, 100, 3},
		{"a tenth of the way", []float64{0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100}, 10, 10},
		{"in proportion", []float64{0, 10}, 25, 2.5},
	} {
		t.Run(tc.name,
			func(t *testing.T) { assert.InDelta(t, tc.want, Percentile(tc.xs, tc.p), 1e-9) })
	}
	assert.True(t, math.IsNaN(Percentile(nil, 50)))
}

// A ratio is taken within a round, because a busy machine slows both down.
func TestRatios_WithinRound(t *testing.T) {
	raw := []float64{10, 100, 1000}
	other := []float64{20, 200, 2000}
	assert.Equal(t, []float64{2, 2, 2}, Ratios(other, raw))
	assert.Equal(t, Spread{2, 2, 2}, SpreadOf(Ratios(other, raw)))
	assert.Equal(t, []float64{2}, Ratios([]float64{4, 0, 5}, []float64{2, 3, 0}),
		"a round with only one result has no ratio")
}

func TestHistogram_Percentiles(t *testing.T) {
	var h Histogram
	assert.True(t, math.IsNaN(h.Percentile(50)))
	for i := 1; i <= 10000; i++ {
		h.Add(time.Duration(i) * time.Microsecond)
	}
	for _, p := range []float64{1, 50, 90, 99, 99.9, 100} {
		assert.InEpsilon(t, p*100e3, h.Percentile(p), 0.025, "percentile %v", p)
	}
	h.Add(0) // too short for the clock
	h.Add(math.MaxInt64)
	assert.Greater(t, h.Percentile(100), 9e18)
}
