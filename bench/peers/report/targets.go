package report

import (
	"math"
	"strings"

	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
)

// target is what a row of this library should reach: its ratio to the floor at most.
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
)

var targets = []target{
	{peer.RoundTrip, "unix", 32, rowTyped, 1.15},
	{peer.RoundTrip, "unix", 1 << 10, rowTyped, 1.15},
	{peer.RoundTrip, "unix", 64 << 10, rowBytes, 1.15},
	{peer.RoundTrip, "unix", 1 << 20, rowBytes, 1.15},
	{peer.RoundTrip, "unix", 64 << 10, rowReused, 1.5},
	{peer.Stream, "unix", 64, rowBatched, 0.05},
	{peer.Stream, "unix", 64, rowTypedBatched, 0.15},
	{peer.Stream, "unix", 1 << 10, rowBatched, 0.15},
	{peer.Stream, "unix", 1 << 10, rowTypedBatched, 0.45},
	{peer.Stream, "unix", 64 << 10, rowBytes, 1.15},
	{peer.Senders, "unix", 64, rowReused, 0.25}, // as the typed streams
	{peer.RoundTrip, "tcp", 32, rowTyped, 1.2},
	{peer.RoundTrip, "tcp", 1 << 10, rowTyped, 1.2},
	{peer.RoundTrip, "tcp", 64 << 10, rowBytes, 1.2},
	{peer.RoundTrip, "tcp", 1 << 20, rowBytes, 1.2},
	{peer.Stream, "tcp", 64 << 10, rowBytes, 1.2},
}

// find returns the figures of a job.
func (r *Results) find(work peer.Work, network string, size int) *measure.Table {
	for i, t := range r.Tables {
		if t.Job == (peer.Job{Work: work, Network: network, Size: size}) {
			return &r.Tables[i]
		}
	}
	return nil
}

// rowOf returns a competitor's row with figures, or nil.
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

// bestPeer returns the row with the least ratio of those that are neither this library nor a floor, or nil.
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

func ours(name string) bool { return strings.HasPrefix(name, "spawnwire") }

func isFloor(name string) bool { return name == "C" || strings.HasPrefix(name, peer.Floor) }
