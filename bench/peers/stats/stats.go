// Package stats computes percentiles and ratios.
package stats

import (
	"math"
	"slices"
	"time"
)

// Percentile returns the p-th percentile of xs, interpolated between neighbours,
// or NaN if xs is empty. It sorts xs in place.
func Percentile(xs []float64, p float64) float64 {
	if len(xs) == 0 {
		return math.NaN()
	}
	slices.Sort(xs)
	at := p / 100 * float64(len(xs)-1)
	low := int(at)
	if low+1 >= len(xs) {
		return xs[len(xs)-1]
	}
	part := at - float64(low)
	return xs[low]*(1-part) + xs[low+1]*part
}

// Spread is a median with the 10th and the 90th percentile.
type Spread struct {
	P10 float64 `json:"p10"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
}

// SpreadOf returns the spread of xs. It sorts xs in place.
func SpreadOf(xs []float64) Spread {
	return Spread{Percentile(xs, 10), Percentile(xs, 50), Percentile(xs, 90)}
}

// Ratios returns xs[i]/base[i] for each round i in which both are positive.
func Ratios(xs, base []float64) []float64 {
	var r []float64
	for i := range min(len(xs), len(base)) {
		if xs[i] > 0 && base[i] > 0 {
			r = append(r, xs[i]/base[i])
		}
	}
	return r
}

// perOctave is the number of counters for each doubling, so a counter is 2.2 %
// wide.
const perOctave = 32

// Histogram counts durations in steps of 2.2 %, in constant memory. The zero value
// is empty.
type Histogram struct {
	counts [64 * perOctave]uint64
	total  uint64
}

// Add adds d.
func (h *Histogram) Add(d time.Duration) {
	h.counts[min(int(math.Log2(float64(max(d, 1)))*perOctave), len(h.counts)-1)]++
	h.total++
}

// Percentile returns the p-th percentile in nanoseconds, to within 1.1 %, or NaN
// if the histogram is empty.
func (h *Histogram) Percentile(p float64) float64 {
	if h.total == 0 {
		return math.NaN()
	}
	want := uint64(math.Ceil(p / 100 * float64(h.total)))
	var seen uint64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= want {
			return math.Exp2((float64(i) + 0.5) / perOctave)
		}
	}
	return math.NaN()
}
