// Command startcost measures what this library adds to the start of a child by being linked into it: the time from
// the start of a process to its end, of a program that does nothing, of one that could connect to a parent, and of
// one that could be spawned by this library; static builds, which take turns. Beside it, what the package inits
// take, as the runtime tells it (GODEBUG=inittrace=1).
//
//	go run ./bench/startcost -n 500
//
// It needs the go command and the module's source.
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

// programs are the packages beside this one, each the smallest of its kind. A later one is compared with all before.
var programs = []string{"smallest", "connects", "linked"}

func main() {
	n := flag.Int("n", 500, "starts of each program")
	inits := flag.Int("inits", 50, "starts of each with inittrace")
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
			k = (k + i) % len(programs) // none always goes first
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

	fmt.Printf("%s %s/%s, %d CPUs, n=%d\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), n)
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "program\tbytes\tstart to end p50\tmore than smallest\tmore than connects\tits inits\tµs\t")
	for k, p := range programs {
		info, err := os.Stat(filepath.Join(dir, p))
		if err != nil {
			return err
		}
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t\t\n", p, info.Size(), micros(median(took[k])),
			micros(medianDifference(took[k], took[0])), micros(medianDifference(took[k], took[1])), micros(sumOfMedians(trace[k])))
	}
	tw.Flush()
	fmt.Println("\nthe package inits that linked has and connects has not, medians in µs:")
	last := len(programs) - 1
	for _, pkg := range byMedian(trace[last]) {
		if _, both := trace[1][pkg]; !both && median(trace[last][pkg]) > 0 {
			fmt.Printf("%6.0f  %s\n", micros(median(trace[last][pkg])), pkg)
		}
	}
	return nil
}

// initLine is what GODEBUG=inittrace=1 prints for each package; see the documentation of package runtime.
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
		return errors.New(path + ": the runtime told of no inits")
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

// medianDifference is the median of what a took more than b in the same round.
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
