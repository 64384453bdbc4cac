package live

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/inspect"
)

// WriteStacks writes the stacks of all goroutines of this process and of all processes
// below the Spawner. Equal stacks are written once, with the number of their
// goroutines and processes. It names the processes that have not answered, and takes
// two seconds at most, or until ctx ends. It returns the error of w.
//
// Each process stops its goroutines for the moment in which it notes their stacks.
func WriteStacks(ctx context.Context, s *forkspawn.Spawner, w io.Writer) error {
	return writeStacks(w, takeStacks(ctx, door(s)))
}

func takeStacks(ctx context.Context, s spawner) *inspect.Report {
	return s.Inspect(ctx, frame.Inspect{What: inspect.Stacks, Bound: stackBound})
}

// NotifyStacks calls [WriteStacks] when this process receives one of the signals, such
// as SIGUSR1, until the caller calls stop. stop waits for a WriteStacks under way.
//
//	stop := live.NotifyStacks(spawner, os.Stderr, syscall.SIGUSR1)
//	defer stop()
func NotifyStacks(s *forkspawn.Spawner, w io.Writer, signals ...os.Signal) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, signals...)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			select {
			case <-arrived:
				WriteStacks(ctx, s, w) // nobody else can get its error
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(arrived)
		cancel()
		work.Wait()
	}
}

// stacks answers with the stacks.
func (h *handler) stacks(w http.ResponseWriter, r *http.Request) {
	format := r.FormValue("format")
	if format != "" && format != "text" && format != "json" {
		http.Error(w, errFormat.Error(), http.StatusBadRequest)
		return
	}
	report := takeStacks(r.Context(), h.looks.s)
	if format == "json" {
		writeJSON(w, report)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	writeStacks(w, report)
}

// printable replaces what a terminal would obey.
func printable(r rune) rune {
	if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
		return '?'
	}
	return r
}

// writeStacks writes a report as text.
func writeStacks(to io.Writer, r *inspect.Report) error {
	w := bufio.NewWriter(to)
	goroutines := 0
	for _, s := range r.Stacks {
		goroutines += s.Goroutines
	}
	fmt.Fprintf(w, "%s: %s with %s\n", count(r.Asked, "process"),
		count(goroutines, "goroutine"), count(len(r.Stacks), "different stack"))
	if len(r.Silent) > 0 {
		fmt.Fprintf(w, "%s without an answer:\n", count(len(r.Silent), "process"))
	}
	for _, p := range r.Silent {
		fmt.Fprintf(w, "\t%q (pid %d): %s\n", p.Name, p.PID, strings.Map(printable, p.Why))
	}
	for _, s := range r.Stacks {
		fmt.Fprintf(w, "\n%s: %s in %s", count(s.Processes, "process"),
			count(s.Goroutines, "goroutine"), strings.Map(printable, s.State))
		if s.Minutes > 0 {
			fmt.Fprintf(w, ", for up to %s", count(s.Minutes, "minute"))
		}
		fmt.Fprintf(w, "\n%s\n", strings.Map(printable, s.Text))
	}
	return w.Flush()
}
