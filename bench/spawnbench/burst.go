package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// burst is a row of -burst: many children at once.
type burst struct {
	Method   string  `json:"method"`
	Spares   int     `json:"spares"`
	Heap     int     `json:"heap"` // bytes
	InitMS   float64 `json:"init_ms"`
	Children int     `json:"children"`
	AtOnce   int     `json:"at_once"`
	Rounds   int     `json:"rounds"`
	// Medians of the rounds. UpMS is the time until all children are ready. CPUMS is the
	// processor time of one child, with its part of this process and of the template,
	// until the child was stopped.
	UpMS  float64 `json:"up_ms"`
	CPUMS float64 `json:"cpu_ms_per_child"`
	// Ratios to method exec with the same init and no spares; 0 if not measured.
	UpToExec  float64 `json:"ratio_up"`
	CPUToExec float64 `json:"ratio_cpu"`
}

// measureBursts starts bursts of n children, with k Spawns at a time. The kinds and the
// program of C take turns.
func measureBursts(kinds []kind, n, k, rounds int) ([]burst, error) {
	c, err := newCFork()
	if err != nil {
		fmt.Fprintln(os.Stderr, "spawnbench: no row for fork in C:", err)
	} else {
		defer c.close()
	}
	type turn struct {
		burst
		up, cpu []time.Duration
		run     func() (up, cpu time.Duration, err error)
	}
	var turns []*turn
	for _, kind := range kinds {
		turns = append(turns, &turn{
			burst: burst{Method: string(kind.method), Spares: kind.spares, Heap: kind.heap,
				InitMS: micros(kind.init) / 1000},
			run: func() (up, cpu time.Duration, err error) { return kind.burst(n, k) },
		})
	}
	if c != nil {
		turns = append(turns, &turn{burst: burst{Method: "fork in C"},
			run: func() (up, cpu time.Duration, err error) { return c.burst(n) }})
	}
	for i := range rounds {
		for j := range turns { // each goes first in its turn
			t := turns[(i+j)%len(turns)]
			up, cpu, err := t.run()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.Method, err)
			}
			t.up, t.cpu = append(t.up, up), append(t.cpu, cpu/time.Duration(n))
		}
	}
	var rows []burst
	execs := map[float64]burst{} // by init
	for _, t := range turns {
		b := t.burst
		b.Children, b.AtOnce, b.Rounds = n, k, rounds
		b.UpMS = percentilesOf(t.up).P50 / 1000
		b.CPUMS = percentilesOf(t.cpu).P50 / 1000
		if b.Method == string(forkspawn.MethodExec) && b.Spares == 0 {
			execs[b.InitMS] = b
		}
		rows = append(rows, b)
	}
	for i, b := range rows {
		if exec, ok := execs[b.InitMS]; ok {
			rows[i].UpToExec = round3(b.UpMS / exec.UpMS)
			rows[i].CPUToExec = round3(b.CPUMS / exec.CPUMS)
		}
	}
	return rows, nil
}

// burst starts n children, k at a time, and stops them when all are ready.
func (b kind) burst(n, k int) (up, cpu time.Duration, err error) {
	r, err := newRow(b, listenOn["uds"])
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, r.s.Close()) }()
	ctx := context.Background() // the Spawner bounds each wait
	before, err := familyCPU()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	err = concurrently(n, k, func(int) error {
		_, err := r.s.Spawn(ctx, spawnspec.Spec{Entry: "wait"})
		return err
	})
	up = time.Since(began)
	if err != nil {
		return 0, 0, err
	}
	children := r.s.Children()
	err = concurrently(len(children), k, func(i int) error {
		_, err := children[i].Stop(ctx)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	after, err := familyCPU()
	return up, after - before, err
}

// concurrently calls f with 0 to n-1, in k goroutines. It returns their first errors.
func concurrently(n, k int, f func(i int) error) error {
	var next atomic.Int64
	errs := make(chan error, k)
	for range k {
		go func() {
			var err error
			for i := int(next.Add(1)); i <= n && err == nil; i = int(next.Add(1)) {
				err = f(i - 1)
			}
			errs <- err
		}()
	}
	var all []error
	for range k {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func printBursts(w io.Writer, rows []burst, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	fmt.Fprintf(w, "%s %s/%s, %d CPUs%s\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), load())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "method\tspares\theap\tinit\tchildren\tat once\trounds\t"+
		"up ms\tto exec\tCPU ms/child\tto exec\t")
	for _, b := range rows {
		fmt.Fprintf(tw, "%s\t%d\t%s\t%gms\t%d\t%d\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t\n",
			b.Method, b.Spares, sizeString(b.Heap), b.InitMS, b.Children, b.AtOnce, b.Rounds,
			b.UpMS, b.UpToExec, b.CPUMS, b.CPUToExec)
	}
	return tw.Flush()
}
