package report

import (
	"math"
	"strings"

	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/stats"
)

// target is the highest ratio to the floor that a row of this library should have.
type target struct {
	work    peer.Work
	network string
	size    int
	row     string
	most    float64
}

const (
	rowBytes        = "spawnwire, bytes"
	rowTyped        = "spawnwire, typed"
	rowReused       = "spawnwire, typed, Bytes"
	rowBatched      = "spawnwire, borrowed, batched"
	rowTypedBatched = "spawnwire, typed, Bytes, batched"
	rowRing         = "spawnwire, bytes, ring"
)

var targets = []target{
	{peer.RoundTrip, "unix", 32, rowTyped, 1.15},
	{peer.RoundTrip, "unix", 1 << 10, rowTyped, 1.15},
	{peer.RoundTrip, "unix", 64 << 10, rowBytes, 1.15},
	{peer.RoundTrip, "unix", 1 << 20, rowBytes, 1.15},
	{peer.RoundTrip, "unix", 64 << 10, rowReused, 1.5},
	{peer.RoundTrip, "unix", 32, rowRing, 0.6},
	{peer.RoundTrip, "unix", 64 << 10, rowRing, 0.4},
	{peer.Stream, "unix", 64, rowRing, 0.03},
	{peer.Stream, "unix", 64, rowBatched, 0.05},
	{peer.Stream, "unix", 64, rowTypedBatched, 0.15},
	{peer.Stream, "unix", 1 << 10, rowBatched, 0.15},
	{peer.Stream, "unix", 1 << 10, rowTypedBatched, 0.45},
	{peer.Stream, "unix", 64 << 10, rowBytes, 1.15},
	{peer.Senders, "unix", 64, rowReused, 0.25}, // the same as for typed streams
	{peer.RoundTrip, "tcp", 32, rowTyped, 1.2},
	{peer.RoundTrip, "tcp", 1 << 10, rowTyped, 1.2},
	{peer.RoundTrip, "tcp", 64 << 10, rowBytes, 1.2},
	{peer.RoundTrip, "tcp", 1 << 20, rowBytes, 1.2},
	{peer.Stream, "tcp", 64 << 10, rowBytes, 1.2},
}

// find returns the table of a job, or nil.
func (r *Results) find(work peer.Work, network string, size int) *measure.Table {
	for i, t := range r.Tables {
		if t.Job.Work == work && t.Job.Network == network && t.Job.Size == size {
			return &r.Tables[i]
		}
	}
	return nil
}

// rowOf returns the row of a competitor, or nil if it has no results.
func rowOf(t *measure.Table, name string) *measure.Row {
	if t == nil {
		return nil
	}
	for i, row := range t.Rows {
		if row.Peer == name && row.Error == "" {
			return &t.Rows[i]
		}
	}
	return nil
}

// bestPeer returns the row with the lowest ratio, or nil. It ignores this library
// and the floors.
func bestPeer(t *measure.Table) *measure.Row {
	var best *measure.Row
	least := math.Inf(1)
	for i, row := range t.Rows {
		if row.Error == "" && !ours(row.Peer) && !isFloor(row.Peer) && row.Ratio.P50 < least {
			best, least = &t.Rows[i], row.Ratio.P50
		}
	}
	return best
}

// inverse returns the spread of the inverse values.
func inverse(s stats.Spread) stats.Spread {
	return stats.Spread{P10: 1 / s.P90, P50: 1 / s.P50, P90: 1 / s.P10}
}

func ours(name string) bool { return strings.HasPrefix(name, "spawnwire") }

func isFloor(name string) bool {
	return name == "C" || name == "C, futex ring" || strings.HasPrefix(name, peer.Floor)
}
