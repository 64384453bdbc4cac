package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spawnwire/spawnwire/internal/inspect"
)

// clear moves to the top of a terminal and erases it (ECMA-48).
const clear = "\x1b[H\x1b[J"

// screen returns the tree as text, with the use of processors since last. last may be
// nil.
func screen(now, last *inspect.Snapshot, terminal bool) []byte {
	var b bytes.Buffer
	if terminal {
		b.WriteString(clear)
	}
	before := make(map[string]time.Duration)
	var elapsed time.Duration
	if last != nil {
		elapsed = now.At.Sub(last.At)
		for _, p := range last.Processes {
			before[p.ID] = p.CPU
		}
	}
	fmt.Fprintf(&b, "%s  %d processes\n\n", now.At.Format(time.TimeOnly), len(now.Processes))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROCESS\tSTATE\tPID\tENTRY\tSTART\tUP\tCPU\tCPU%\tMEM\tGOR\tRESTARTS\tCALLS\tNOTE")
	for i := range now.Processes {
		p := &now.Processes[i]
		start, percent := "", ""
		if p.Boot != nil {
			start = p.Boot.Total.Round(100 * time.Microsecond).String()
		}
		if cpu, ok := before[p.ID]; ok && elapsed > 0 && p.CPU >= cpu {
			percent = fmt.Sprintf("%.0f", 100*float64(p.CPU-cpu)/float64(elapsed))
		}
		fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\t%v\t%v\t%s\t%s\t%s\t%s\t%s\t%s\n",
			strings.Repeat("  ", p.Depth), printable(p.Name), printable(p.State), number(p.PID),
			printable(p.Entry), start, p.Uptime.Round(time.Second), p.CPU.Round(time.Millisecond),
			percent, megabytes(p.Memory), number(p.Goroutines), number(p.Restarts),
			number(len(p.Calls)), note(p))
	}
	w.Flush()
	return b.Bytes()
}

func note(p *inspect.Process) string {
	if p.Exit != "" {
		return printable(p.Exit)
	}
	return printable(p.Silent)
}

// printable replaces control characters, because a terminal obeys them.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func megabytes(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%.1fM", float64(n)/1e6)
}
