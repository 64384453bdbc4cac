package report

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/bench/peers/growth"
	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/spawn"
	"github.com/spawnwire/spawnwire/bench/peers/stats"
)

func results() *Results {
	row := func(name string, ratio float64) measure.Row {
		allocs := 3.2
		return measure.Row{
			Peer: name, Op: stats.Spread{P10: ratio * 9e3, P50: ratio * 10e3, P90: ratio * 11e3},
			Ratio: stats.Spread{P10: ratio * 0.9, P50: ratio, P90: ratio * 1.1},
			Latency: &measure.Latency{P50: ratio * 10e3, P90: ratio * 20e3, P99: ratio * 30e3,
				P999: ratio * 1e6}, Allocs: &allocs,
		}
	}
	pair := func(name string, with, alone float64) measure.Row {
		both, before := row(name, with/alone), row(name, alone)
		both.Latency = &measure.Latency{P99: with * 1e3}
		before.Latency = &measure.Latency{P99: alone * 1e3}
		both.Alone = &before
		return both
	}
	table := func(work peer.Work, size int, rows ...measure.Row) measure.Table {
		return measure.Table{Job: peer.Job{Work: work, Network: "unix", Size: size}, Rows: rows}
	}
	points := []growth.Point{{N: 1, Op: 20e3}, {N: 10, Op: 22e3}, {N: 1000, Op: 0}}
	return &Results{
		Machine: ThisMachine(), Rounds: 5,
		Tables: []measure.Table{
			table(peer.RoundTrip, 1<<10, row("C", .5), row(peer.Floor, 1), row(rowTyped, 1.2),
				row("mangos pair", 2.2), row("ttrpc", 3)),
			table(peer.RoundTrip, 32, row(peer.Floor, 1), row(rowTyped, 1.1), row("grpc", 4.8),
				measure.Row{Peer: "ttrpc", Error: "it is broken"}),
			table(peer.Stream, 64, row(peer.Floor, 1), row(rowBatched, .03), row("grpc", .7)),
			table(peer.Callers, 64, row(peer.Floor, 1), row(rowCall, .2), row("net/rpc", .9),
				row("ttrpc", 1)),
			table(peer.Beside, 32, pair(rowCall, 20, 10), pair("grpc", 90, 10)),
			table(peer.Unread, 64, pair(rowCall, 1.1, 1), pair("ttrpc", 4, 1)),
			table(peer.Stream, 1<<10, row(peer.Floor, 1), row(rowBatched, .1), row("grpc", 1.1)),
		},
		Spawns: 7, Spawn: []spawn.Row{
			{Name: "os/exec", Total: stats.Spread{P50: 1000},
				Ratio: stats.Spread{P10: 1, P50: 1, P90: 1}, Phases: []float64{1, 2, 3, 4}},
			{Name: "spawnwire", Total: stats.Spread{P50: 1200},
				Ratio: stats.Spread{P10: 1.1, P50: 1.2, P90: 1.3}, Phases: []float64{5, 6, 7, 8}},
		},
		Channels: []growth.Line{{Peer: peer.Floor, Points: points}},
		Messages: []growth.Line{{Peer: rowTyped, Points: points}},
	}
}

func TestMarkdown_HasResults(t *testing.T) {
	var b strings.Builder
	require.NoError(t, results().Markdown(&b))
	for _, line := range []string{
		// Sorted by size.
		"| spawnwire, typed | 1.10 (0.990 to 1.21) | 1.20 (1.08 to 1.32) | 3, 3 |",
		"| raw | 1 = 10.0 µs | 1 = 10.0 µs | 3, 3 |",
		"| C |  | 0.500 (0.450 to 0.550) | , 3 |",
		"| ttrpc |  | 3.00 (2.70 to 3.30) | , 3 |",
		"| grpc | 48.0 / 96.0 / 144 / 4800 |  |",
		"| spawnwire | 1.20 | 1.20 (1.10 to 1.30) | 5 | 6 | 7 | 8 |",
		"| round trip 32 B, unix | spawnwire, typed | 1.15 | 1.10 (0.990 to 1.21) | met | 4.80 (grpc) |",
		"| round trip 1 KiB, unix | spawnwire, typed | 1.15 | 1.20 (1.08 to 1.32) | **missed** | 2.20 (mangos pair) |",
		"* ttrpc, round trip 32 B, unix: it is broken",
		"| 64 callers, 64 B: calls per second, to net/rpc | at least 4 | 4.50 | met | net/rpc 1.00, ttrpc 0.900 |",
		"| 99 % of round trips of 32 B beside messages of 16 MiB, to alone | at most 3 | 2.00 | met | grpc 9.00 |",
		"| 1,000 streams of 64 B beside an unread one: rate, to the rate without it | at least 0.97 | 0.909 | **missed** | ttrpc 0.250 |",
	} {
		assert.Contains(t, b.String(), line+"\n")
	}
}

func TestResults_WriteAndRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	r := results()
	require.NoError(t, r.Write(file))
	again, err := Read(file)
	require.NoError(t, err)
	assert.Equal(t, r, again)
}

func TestPlots_AreSVG(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plots")
	require.NoError(t, results().Plots(dir))
	for _, name := range []string{"latency", "throughput", "calls", "spawn", "growth"} {
		f, err := os.Open(filepath.Join(dir, name+".svg"))
		require.NoError(t, err)
		defer f.Close()
		elements, text := 0, ""
		for d := xml.NewDecoder(f); ; {
			token, err := d.Token()
			if err == io.EOF {
				break
			}
			require.NoError(t, err, name)
			switch token := token.(type) {
			case xml.StartElement:
				elements++
			case xml.CharData:
				text += string(token)
			}
		}
		assert.Greater(t, elements, 30, name)
		assert.Contains(t, text,
			map[string]string{"latency": "99.9", "throughput": "grpc", "calls": "64 callers", "spawn": "os/exec",
				"growth": "channels"}[name])
	}
}

func TestPlots_NoneWithoutResults(t *testing.T) {
	dir := t.TempDir()
	r := &Results{Machine: ThisMachine()}
	require.NoError(t, r.Plots(dir))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, files)
	require.NoError(t, r.Markdown(io.Discard))
}

func TestTargets_NameCompetitors(t *testing.T) {
	for _, target := range targets {
		p, err := peer.Find(target.row)
		require.NoError(t, err)
		assert.True(t,
			p.Does(peer.Job{Work: target.work, Network: target.network,
				Size: target.size}), target.row)
	}
}
