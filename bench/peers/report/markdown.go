package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spawnwire/spawnwire/bench/peers/growth"
	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/spawn"
	"github.com/spawnwire/spawnwire/bench/peers/stats"
)

// Markdown writes the results as Markdown tables.
func (r *Results) Markdown(out io.Writer) error {
	w := &writer{w: out}
	m := r.Machine
	w.line("%s, %s, %s, %d CPUs (%s), %s; load when it began %s, when it ended %s (%s).",
		m.Go, m.Platform, m.Kernel, m.CPUs, m.CPU, m.Compiler, m.Load, m.LoadEnd, m.Begun)
	w.line("%s.", strings.Join(m.Peers, ", "))
	for _, note := range r.Notes {
		w.line("%s", note)
	}
	if len(r.Tables) > 0 {
		w.line("")
		opt := measure.Options{Rounds: r.Rounds, Turn: r.Turn}
		short := opt.For(peer.Job{Work: peer.RoundTrip})
		many := opt.For(peer.Job{Work: peer.Senders})
		w.line("%d rounds, with a turn of about %v for each competitor; "+
			"%d with %v for round trips below 1 MiB, %d with %v for %d goroutines. "+
			"Ratios are to `%s` in the same round: the median, "+
			"and in parentheses the 10th and the 90th percentile of the rounds.",
			opt.Rounds, opt.Turn, short.Rounds, short.Turn, many.Rounds, many.Turn,
			peer.Goroutines, peer.Floor)
	}
	for _, network := range []string{"unix", "tcp"} {
		where := map[string]string{"unix": "Unix socket", "tcp": "TCP loopback"}[network]
		if tables := r.tables(peer.RoundTrip, network); len(tables) > 0 {
			w.heading("Round trips, " + where)
			w.ratios(tables)
			w.heading("Round trips, " + where + ": latency in µs, 50 % / 90 % / 99 % / 99.9 %")
			w.latencies(tables)
		}
		if tables := r.tables(peer.Stream, network); len(tables) > 0 {
			w.heading("One-way streams, " + where + ", time per message")
			w.ratios(tables)
		}
		if tables := r.tables(peer.Senders, network); len(tables) > 0 {
			w.heading(fmt.Sprintf("%d goroutines sending on one connection, %s, time per message",
				peer.Goroutines, where))
			w.ratios(tables)
		}
	}
	w.calls(r)
	if len(r.Spawn) > 0 {
		w.heading("Spawn to ready")
		w.line("%d children of each, static programs (CGO_ENABLED=0) with nothing else linked. "+
			"The parts are means in µs.", r.Spawns)
		w.line("")
		w.spawns(r.Spawn)
	}
	if len(r.Channels) > 0 {
		w.heading("Growth: a round trip of 64 B over n channels in turn, µs")
		w.growth(r.Channels, 1000)
	}
	if len(r.Messages) > 0 {
		w.heading("Growth: a stream of n messages of 64 B, ns per message")
		w.growth(r.Messages, 1)
	}
	if len(r.Tables) > 0 {
		w.heading("Targets")
		w.targets(r)
		w.callTargets(r)
	}
	if failed := r.Failed(); len(failed) > 0 {
		w.heading("Failed")
		for _, f := range failed {
			w.line("* %s", f)
		}
	}
	return w.err
}

// tables returns the tables of one kind of work, sorted by size.
func (r *Results) tables(work peer.Work, network string) []measure.Table {
	var all []measure.Table
	for _, t := range r.Tables {
		if t.Job.Work == work && t.Job.Network == network {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b measure.Table) int { return a.Job.Size - b.Job.Size })
	return all
}

// writer writes lines and keeps the first error.
type writer struct {
	w   io.Writer
	err error
}

func (w *writer) line(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, format+"\n", args...)
	}
}

func (w *writer) heading(s string) { w.line("\n### %s\n", s) }

func (w *writer) row(cells ...string) { w.line("| %s |", strings.Join(cells, " | ")) }

func (w *writer) head(cells ...string) {
	w.row(cells...)
	w.line("|%s", strings.Repeat("---|", len(cells)))
}

// rowNames returns the competitors with results in any of the tables, in the order
// of peer.All.
func rowNames(tables []measure.Table) []string {
	var names []string
	for _, p := range peer.All() {
		if slices.ContainsFunc(tables,
			func(t measure.Table) bool { return rowOf(&t, p.Name()) != nil }) {
			names = append(names, p.Name())
		}
	}
	return names
}

func (w *writer) ratios(tables []measure.Table) {
	head := []string{""}
	for _, t := range tables {
		head = append(head, peer.SizeName(t.Job.Size))
	}
	w.head(append(head, "allocations by size")...)
	for _, name := range rowNames(tables) {
		cells := []string{name}
		var allocs []string
		for _, t := range tables {
			row := rowOf(&t, name)
			switch {
			case row == nil:
				cells = append(cells, "")
				allocs = append(allocs, "")
				continue
			case name == peer.Floor:
				cells = append(cells, "1 = "+micros(row.Op.P50)+" µs")
			case row.Ratio.P50 == 0: // the floor has no result
				cells = append(cells, micros(row.Op.P50)+" µs")
			default:
				cells = append(cells, spread(row.Ratio))
			}
			allocs = append(allocs, allocations(row))
		}
		if strings.Join(allocs, "") == "" {
			allocs = nil
		}
		w.row(append(cells, strings.Join(allocs, ", "))...)
	}
}

// allocations formats the allocations of the caller's process, and of the other one
// if they are known.
func allocations(row *measure.Row) string {
	switch {
	case row.Allocs == nil:
		return ""
	case row.OtherAllocs == nil:
		return fmt.Sprintf("%.0f", *row.Allocs)
	}
	return fmt.Sprintf("%.0f + %.0f", *row.Allocs, *row.OtherAllocs)
}

func (w *writer) latencies(tables []measure.Table) {
	head := []string{""}
	for _, t := range tables {
		head = append(head, peer.SizeName(t.Job.Size))
	}
	w.head(head...)
	for _, name := range rowNames(tables) {
		cells := []string{name}
		for _, t := range tables {
			row := rowOf(&t, name)
			if row == nil || row.Latency == nil {
				cells = append(cells, "")
				continue
			}
			l := row.Latency
			cells = append(cells,
				strings.Join([]string{micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999)},
					" / "))
		}
		w.row(cells...)
	}
}

func (w *writer) spawns(rows []spawn.Row) {
	w.head(append([]string{"", "median, ms", "ratio to os/exec"}, spawn.PhaseNames...)...)
	for _, row := range rows {
		if row.Error != "" {
			continue
		}
		cells := []string{row.Name, figure(row.Total.P50 / 1000), spread(row.Ratio)}
		for _, p := range row.Phases {
			cells = append(cells, fmt.Sprintf("%.0f", p))
		}
		w.row(cells...)
	}
}

func (w *writer) growth(lines []growth.Line, unit float64) {
	head := []string{"n"}
	for _, p := range lines[0].Points {
		head = append(head, fmt.Sprint(p.N))
	}
	w.head(head...)
	for _, l := range lines {
		cells := []string{l.Peer}
		for _, p := range l.Points {
			cells = append(cells, figure(p.Op/unit))
		}
		w.row(cells...)
	}
}

func (w *writer) targets(r *Results) {
	w.head("work", "way", "at most", "got", "", "best peer")
	for _, t := range targets {
		table := r.find(t.work, t.network, t.size)
		row := rowOf(table, t.row)
		if row == nil || row.Ratio.P50 == 0 {
			continue
		}
		verdict := "met"
		if row.Ratio.P50 > t.most {
			verdict = "**missed**"
		}
		best := ""
		if b := bestPeer(table); b != nil {
			best = fmt.Sprintf("%s (%s)", figure(b.Ratio.P50), b.Peer)
		}
		w.row(table.Job.String(), t.row, fmt.Sprint(t.most), spread(row.Ratio), verdict, best)
	}
}

func spread(s stats.Spread) string {
	return fmt.Sprintf("%s (%s to %s)", figure(s.P50), figure(s.P10), figure(s.P90))
}

// micros formats nanoseconds as microseconds.
func micros(ns float64) string { return figure(ns / 1000) }

// figure formats a number with three significant digits.
func figure(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}
