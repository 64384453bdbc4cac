package forkspawn_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var bootDetails = regexp.MustCompile(
	`^forkspawn: (spawn|child) "faulty" \(pid \d+\):? | \(start [^)]*\)`)

// report fails the test for each failed assertion, and prints the table.
func report(t *testing.T, verdicts []*verdict, leaks int, took time.Duration) {
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-16s  %-33s  %-3s  %9s  %s\n", "point", "fault", "net", "ms",
		"the error in the parent")
	hangs := 0
	longest := slices.MaxFunc(verdicts, func(a, b *verdict) int {
		return cmp.Compare(a.time, b.time)
	})
	for _, v := range verdicts {
		if v.hung {
			hangs++
		}
		for _, w := range v.wrong {
			t.Errorf("%v: %s: %s", v.faultCase, w, v.text)
		}
	}
	order := slices.Concat([]point{inHello, inAnswer}, points,
		[]point{programStarts, programRuns})
	slices.SortStableFunc(verdicts, func(a, b *verdict) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.point), slices.Index(order, b.point)),
			cmp.Compare(slices.Index(faults, a.fault), slices.Index(faults, b.fault)),
			-strings.Compare(a.net, b.net),
		)
	})
	times, examples := map[string][]time.Duration{}, map[string]string{}
	var names []string // in the table's order
	for _, v := range verdicts {
		name := string(v.fault)
		if v.timeUp {
			name += ", boot timeout"
		}
		if times[name] == nil {
			names = append(names, name)
		}
		times[name] = append(times[name], max(v.time, 0))
		text := strings.ReplaceAll(bootDetails.ReplaceAllString(v.text, ""), "\n", "; ")
		if strings.Contains(text, ":") { // the first error of a boot or of a child
			examples[name] = cmp.Or(examples[name], text)
		}
		fmt.Fprintf(&table, "%-16s  %-33s  %-3s  %9.2f  %.140s\n", v.point, name, v.net,
			float64(max(v.time, 0))/1e6, text)
	}
	fmt.Fprintf(&table, "\n%-33s  %5s  %9s  %9s\n", "fault, at all points",
		"cases", "median ms", "most ms")
	for _, name := range names {
		all := slices.Sorted(slices.Values(times[name]))
		fmt.Fprintf(&table, "%-33s  %5d  %9.2f  %9.2f\n", name, len(all),
			float64(all[len(all)/2])/1e6, float64(all[len(all)-1])/1e6)
	}
	fmt.Fprintf(&table, "%d cases, %d hangs, %d leaks, longest time %v (%v), all in %v\n",
		len(verdicts), hangs, leaks, longest.time.Round(10*time.Microsecond), longest.faultCase,
		took.Round(10*time.Millisecond))
	t.Log(table.String())
	if *updateFaults {
		updateFaultTable(t, names, times, examples)
	}
}

var updateFaults = flag.Bool("update", false, "write the fault table into docs/reliability.md")

// updateFaultTable replaces the table between two comments of docs/reliability.md.
func updateFaultTable(
	t *testing.T, names []string, times map[string][]time.Duration, examples map[string]string,
) {
	const page = "../docs/reliability.md"
	const begin, end = "<!-- made by TestFaultTable -update -->\n\n", "\n<!-- end -->\n"
	var table strings.Builder
	table.WriteString("| fault | cases | median, ms | most, ms | the parent's error (an example) |\n" +
		"|---|---|---|---|---|\n")
	for _, name := range names {
		all := slices.Sorted(slices.Values(times[name]))
		example := strings.NewReplacer("|", "\\|", "`", "'").Replace(examples[name])
		if over := len(example) - 110; over > 0 {
			example = strings.ToValidUTF8(example[:110], "") + "…"
		}
		if example != "" {
			example = "`" + example + "`"
		}
		fmt.Fprintf(&table, "| %s | %d | %.1f | %.0f | %s |\n", name, len(all),
			float64(all[len(all)/2])/1e6, float64(all[len(all)-1])/1e6, example)
	}
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	require.True(t, ok && closed, "no place for the table")
	require.NoError(t, os.WriteFile(page,
		[]byte(before+begin+table.String()+end+after), 0o644))
}
