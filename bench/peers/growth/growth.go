// Package growth measures how the cost of a message depends on the number of
// channels between two processes, and on the number of messages on one channel.
// The floor is a plain net.Conn.
package growth

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/stats"
)

// size is the payload of a message, in bytes.
const size = 64

// Line has the results of one competitor.
type Line struct {
	Peer   string  `json:"peer"`
	Points []Point `json:"points"`
}

// Point is the cost of one operation for one number of channels or messages.
type Point struct {
	N  int     `json:"n"`
	Op float64 `json:"op_ns"`
}

// Channels measures a round trip over n channels, used in turn, for each n in
// counts.
func Channels(ctx context.Context, counts []int, opt measure.Options) ([]Line, error) {
	var lines []Line
	for _, n := range counts {
		job := peer.Job{Work: peer.RoundTrip, Network: "unix", Size: size, Connections: n}
		step := opt
		step.Progress = func(string) { opt.Progress(fmt.Sprintf("growth: %d channels", n)) }
		table, err := measure.Job(ctx, find(channelWays), job, step)
		if err != nil {
			return nil, err
		}
		for _, row := range table.Rows {
			if row.Error != "" {
				return nil, fmt.Errorf("%s over %d channels: %s", row.Peer, n, row.Error)
			}
			lines = add(lines, row.Peer, Point{n, row.Op.P50})
		}
	}
	return lines, nil
}

// Messages measures a stream of n messages on a new channel, for each n in counts.
// A result is the time from the first send to the receiver's report, minus the
// time of a report alone, divided by n. Short streams are repeated, and the
// median is the result.
func Messages(ctx context.Context, counts []int, progress func(string)) ([]Line, error) {
	var lines []Line
	for _, p := range find(messageWays) {
		for _, n := range counts {
			progress(fmt.Sprintf("growth: %d messages: %s", n, p.Name()))
			op, err := messages(ctx, p, n)
			if err != nil {
				return nil, fmt.Errorf("%d messages: %s: %w", n, p.Name(), err)
			}
			lines = add(lines, p.Name(), Point{n, op})
		}
	}
	return lines, nil
}

// enough is the time for which streams of one length are repeated.
const enough = 50 * time.Millisecond

func messages(ctx context.Context, p peer.Peer, n int) (float64, error) {
	start, cancel := context.WithTimeout(ctx, peer.Patience)
	defer cancel()
	w, err := p.Open(start, peer.Job{Work: peer.Stream, Network: "unix", Size: size})
	if err != nil {
		return 0, err
	}
	defer w.Close()
	// Only the number of messages bounds a Run: 10 million take 30 s on a slow
	// machine.
	bounded, cancel := context.WithTimeout(ctx, 5*peer.Patience)
	defer cancel()
	defer context.AfterFunc(bounded, func() { w.Close() })()
	var took []float64
	for began := time.Now(); len(took) == 0 || time.Since(began) < enough && len(took) < 10_000; {
		nothing, err := w.Run(0)
		if err != nil {
			return 0, err
		}
		all, err := w.Run(n)
		if err != nil {
			return 0, err
		}
		took = append(took, float64(all.Total-nothing.Total))
	}
	return max(stats.Percentile(took, 50), 0) / float64(n), nil
}

// The measured ways to use this library. The others grow in the same way.
var (
	channelWays = []string{peer.Floor, "spawnwire, bytes", "spawnwire, typed, Bytes"}
	messageWays = []string{peer.Floor, "spawnwire, typed, Bytes", "spawnwire, borrowed, batched",
		"spawnwire, typed, Bytes, batched"}
)

func find(names []string) []peer.Peer {
	return slices.DeleteFunc(peer.All(),
		func(p peer.Peer) bool { return !slices.Contains(names, p.Name()) })
}

func add(lines []Line, name string, p Point) []Line {
	i := slices.IndexFunc(lines, func(l Line) bool { return l.Peer == name })
	if i < 0 {
		i = len(lines)
		lines = append(lines, Line{Peer: name})
	}
	lines[i].Points = append(lines[i].Points, p)
	return lines
}
