// Startcost measures how much longer a child takes to start because this library
// is linked into it. It runs three static programs in turns, from start to exit.
// The program smallest is empty, connects has the code to connect to a parent,
// and linked has the code of a child of this library. Startcost also prints the
// time of their package inits, as reported by GODEBUG=inittrace=1.
//
//	go run ./bench/startcost -n 500
//
// It needs the go command and the source of this module.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// programs are the folders of the measured programs, each the smallest of its
// kind. Each is compared with the ones before it.
var programs = []string{"smallest", "connects", "linked"}

func main() {
	n := flag.Int("n", 500, "starts of each program")
	inits := flag.Int("inits", 50, "starts of each program with inittrace")
	flag.Parse()
	if flag.NArg() > 0 || *n < 1 || *inits < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*n, *inits); err != nil {
		fmt.Fprintln(os.Stderr, "startcost:", err)
		os.Exit(1)
	}
}

func run(n, inits int) error {
	dir, err := os.MkdirTemp("", "startcost-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator))
	for _, p := range programs {
		build.Args = append(build.Args, "github.com/spawnwire/spawnwire/bench/startcost/"+p)
	}
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}

	took := make([][]time.Duration, len(programs))
	for i := range n {
		for k := range programs {
			k = (k + i) % len(programs) // each goes first in its turn
			began := time.Now()
			if err := exec.Command(filepath.Join(dir, programs[k])).Run(); err != nil {
				return err
			}
			took[k] = append(took[k], time.Since(began))
		}
	}
	trace := make([]map[string][]time.Duration, len(programs))
	for k, p := range programs {
		trace[k] = map[string][]time.Duration{}
		for range inits {
			if err := traceInits(filepath.Join(dir, p), trace[k]); err != nil {
				return err
			}
		}
	}

	fmt.Printf("%s %s/%s, %d CPUs, n=%d\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), n)
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw,
		"program\tbytes\tstart to end p50\tmore than smallest\tmore than connects\tits inits\tµs\t")
	for k, p := range programs {
		info, err := os.Stat(filepath.Join(dir, p))
		if err != nil {
			return err
		}
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t\t\n", p, info.Size(),
			micros(median(took[k])), micros(medianDifference(took[k], took[0])),
			micros(medianDifference(took[k], took[1])), micros(sumOfMedians(trace[k])))
	}
	tw.Flush()
	fmt.Println("\npackage inits of linked that connects does not have, medians in µs:")
	last := len(programs) - 1
	for _, pkg := range byMedian(trace[last]) {
		if _, both := trace[1][pkg]; !both && median(trace[last][pkg]) > 0 {
			fmt.Printf("%6.0f  %s\n", micros(median(trace[last][pkg])), pkg)
		}
	}
	return nil
}

// initLine matches a line of GODEBUG=inittrace=1; see package runtime.
var initLine = regexp.MustCompile(`(?m)^init (\S+) @\S+ ms, (\S+) ms clock`)

func traceInits(path string, into map[string][]time.Duration) error {
	cmd := exec.Command(path)
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	lines := initLine.FindAllStringSubmatch(stderr.String(), -1)
	if len(lines) == 0 {
		return errors.New(path + ": the runtime has reported no inits")
	}
	for _, m := range lines {
		ms, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return err
		}
		into[m[1]] = append(into[m[1]], time.Duration(ms*float64(time.Millisecond)))
	}
	return nil
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// medianDifference returns the median of a-b over the rounds.
func medianDifference(a, b []time.Duration) time.Duration {
	d := make([]time.Duration, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return median(d)
}

func sumOfMedians(trace map[string][]time.Duration) (sum time.Duration) {
	for _, d := range trace {
		sum += median(d)
	}
	return sum
}

func byMedian(trace map[string][]time.Duration) []string {
	var pkgs []string
	for pkg := range trace {
		pkgs = append(pkgs, pkg)
	}
	slices.SortFunc(pkgs, func(a, b string) int { return int(median(trace[b]) - median(trace[a])) })
	return pkgs
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
