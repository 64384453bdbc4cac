package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
)

const rowCall = "spawnwire, call"

// calls writes the tables of the jobs for libraries with calls.
func (w *writer) calls(r *Results) {
	if tables := r.tables(peer.Callers, "unix"); len(tables) > 0 {
		w.heading(fmt.Sprintf("Round trips of %d callers on one connection, time per call",
			peer.Goroutines))
		w.ratios(tables)
	}
	for _, t := range r.tables(peer.Beside, "unix") {
		w.heading(fmt.Sprintf("Round trips of %s beside messages of %s both ways, µs",
			peer.SizeName(t.Job.Size), peer.SizeName(t.Job.Large)))
		w.head("", "50 % alone", "99 % alone", "50 %", "99 %", "ratio of 99 %")
		w.pairs(t, func(row, alone *measure.Row) []string {
			a, b := alone.Latency, row.Latency
			return []string{micros(a.P50), micros(a.P99), micros(b.P50), micros(b.P99),
				figure(b.P99 / a.P99)}
		})
	}
	for _, t := range r.tables(peer.Unread, "unix") {
		w.heading(fmt.Sprintf("A message of %s on each of %d streams, and with one more that is not read",
			peer.SizeName(t.Job.Size), peer.Streams))
		w.head("", "µs", "µs with the unread stream", "rate, to the rate without it")
		w.pairs(t, func(row, alone *measure.Row) []string {
			return []string{micros(alone.Op.P50), micros(row.Op.P50), spread(inverse(row.Ratio))}
		})
	}
	for _, t := range r.tables(peer.Cancel, "unix") {
		w.heading("Cancel to acknowledgement")
		w.head("", "round trip, µs", "cancel, µs", "ratio")
		w.pairs(t, func(row, alone *measure.Row) []string {
			return []string{micros(alone.Op.P50), micros(row.Op.P50), spread(row.Ratio)}
		})
	}
}

// pairs writes the rows of a job, beside the same job alone.
func (w *writer) pairs(t measure.Table, cells func(row, alone *measure.Row) []string) {
	for _, name := range rowNames([]measure.Table{t}) {
		row := rowOf(&t, name)
		w.row(append([]string{name}, cells(row, row.Alone)...)...)
	}
}

// callTarget is a target of package call.
type callTarget struct {
	quantity string
	least    bool // limit is the least value, and else the most
	limit    float64
	job      peer.Job
	// value computes the result of a row, from the row and the table. It returns 0
	// if something is missing.
	value func(row *measure.Row, t *measure.Table) float64
}

// callTargets have the anchors beside them: the results of the other libraries.
var callTargets = []callTarget{
	{"round trip of 32 B, one caller, to `raw`", false, 1.20,
		peer.Job{Work: peer.RoundTrip, Size: 32}, ratio},
	{"allocations of it in both processes", false, 4,
		peer.Job{Work: peer.RoundTrip, Size: 32}, bothAllocs},
	{"64 callers, 64 B: calls per second, to net/rpc", true, 4,
		peer.Job{Work: peer.Callers, Size: 64}, timesNetRPC},
	{"stream of 64 B, time per message, to `raw`", false, 0.15,
		peer.Job{Work: peer.Stream, Size: 64}, ratio},
	{"99 % of round trips of 32 B beside messages of 16 MiB, to alone", false, 3,
		peer.Job{Work: peer.Beside, Size: 32}, p99Ratio},
	{"1,000 streams of 64 B beside an unread one: rate, to the rate without it", true, 0.97,
		peer.Job{Work: peer.Unread, Size: 64}, rate},
	{"cancel to acknowledgement, in round trips", false, 2,
		peer.Job{Work: peer.Cancel, Size: 32}, ratio},
}

func ratio(row *measure.Row, _ *measure.Table) float64 { return row.Ratio.P50 }

func rate(row *measure.Row, _ *measure.Table) float64 { return inverse(row.Ratio).P50 }

func bothAllocs(row *measure.Row, _ *measure.Table) float64 {
	if row.Allocs == nil || row.OtherAllocs == nil {
		return 0
	}
	return math.Round(*row.Allocs) + math.Round(*row.OtherAllocs)
}

func timesNetRPC(row *measure.Row, t *measure.Table) float64 {
	other := rowOf(t, "net/rpc")
	if other == nil || row.Ratio.P50 == 0 {
		return 0
	}
	return other.Ratio.P50 / row.Ratio.P50
}

func p99Ratio(row *measure.Row, _ *measure.Table) float64 {
	if row.Alone == nil || row.Alone.Latency == nil || row.Latency == nil {
		return 0
	}
	return row.Latency.P99 / row.Alone.Latency.P99
}

// callTargets writes the targets of package call with the results of all libraries
// for calls.
func (w *writer) callTargets(r *Results) {
	w.heading("Targets of calls")
	w.head("quantity", "target", rowCall, "", "others")
	for _, target := range callTargets {
		table := r.find(target.job.Work, "unix", target.job.Size)
		row := rowOf(table, rowCall)
		if row == nil {
			continue
		}
		got := target.value(row, table)
		if got == 0 {
			continue
		}
		limit, verdict := fmt.Sprintf("at most %v", target.limit), "met"
		if target.least {
			limit = fmt.Sprintf("at least %v", target.limit)
		}
		if got != target.limit && (got < target.limit) == target.least {
			verdict = "**missed**"
		}
		var others []string
		for _, name := range callers(table) {
			v := target.value(rowOf(table, name), table)
			if name != rowCall && v != 0 {
				others = append(others, name+" "+figure(v))
			}
		}
		w.row(target.quantity, limit, figure(got), verdict, strings.Join(others, ", "))
	}
}

// callsPlot has a panel for each job of calls: what one caller and many callers get
// done, and what they lose to a disturbance.
func (r *Results) callsPlot(file string) error {
	s := newSheet()
	perSecond := func(row *measure.Row) float64 { return 1e9 / row.Op.P50 }
	for _, panel := range []struct {
		job      peer.Job
		title, y string
		value    func(row *measure.Row) float64
	}{
		{peer.Job{Work: peer.RoundTrip, Size: 32}, "one caller, 32 B", "calls/s", perSecond},
		{peer.Job{Work: peer.Callers, Size: 64},
			fmt.Sprintf("%d callers, 64 B", peer.Goroutines), "calls/s", perSecond},
		{peer.Job{Work: peer.Beside, Size: 32}, "beside messages of 16 MiB", "99 %, to alone",
			func(row *measure.Row) float64 { return p99Ratio(row, nil) }},
		{peer.Job{Work: peer.Unread, Size: 64}, "1,000 streams, one unread", "rate, to without it",
			func(row *measure.Row) float64 { return rate(row, nil) }},
	} {
		table := r.find(panel.job.Work, "unix", panel.job.Size)
		if r.find(peer.Callers, "unix", 64) == nil || table == nil {
			continue
		}
		p := s.panel(panel.title, "", panel.y)
		logarithmic(&p.Y)
		p.X.Tick.Marker = plot.ConstantTicks{}
		for i, name := range callers(table) {
			v := panel.value(rowOf(table, name))
			if v == 0 {
				continue
			}
			// A bar of a logarithmic axis has no zero to begin at.
			if err := s.line(p, name, plotter.XYs{{X: float64(i), Y: v},
				{X: float64(i) + .8, Y: v}}); err != nil {
				return err
			}
		}
	}
	return s.save(file)
}

// callers returns the libraries for calls with results in the table.
func callers(t *measure.Table) []string {
	return slices.DeleteFunc(rowNames([]measure.Table{*t}), func(name string) bool {
		p, err := peer.Find(name)
		return err != nil || name == peer.Floor ||
			!p.Does(peer.Job{Work: peer.Callers, Network: "unix", Size: t.Job.Size})
	})
}
