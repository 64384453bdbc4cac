// Spawnbench measures the time from the call of Spawn until the child is ready,
// and the phases of that time. Its floor is the same binary, started with plain
// os/exec, which connects and writes one byte. Library and floor take turns,
// because on a shared machine only their ratio is meaningful.
//
//	go run ./bench/spawnbench -n 200
//
// With -spares it also measures children that were started in advance, and with
// -method forkserver children that are forked from a template. With -init and
// -heap the measured program is larger:
//
//	CGO_ENABLED=0 go run ./bench/spawnbench -n 200 -method exec,forkserver -spares 4 \
//		-heap 1M,100M,1G -init 0,50ms
//
// There is one row for each combination. With -init the program computes for that
// time before it calls forkspawn.Init. An executed child does that each time, a
// template only once. -heap is the memory of a template when it forks, in blocks of
// 64 KiB without pointers, allocated and written by its warm-up. Executed
// children have no such heap. So "to exec" (ratio_to_exec_p50) is the ratio to an
// executed child with the same -init and nothing loaded. All templates of a
// transport exist at the same time: the command above needs 4.5 GiB.
//
// With -burst it starts that many children at once, -at-once of them at a time, and prints
// when all are ready and the processor time of each. A program in C that forks as many is
// the floor:
//
//	CGO_ENABLED=0 go run ./bench/spawnbench -burst 200 -method exec,forkserver -spares 64
//
// If there is a C compiler, the default build links libc. With CGO_ENABLED=0 the
// program is static, and both child and floor start faster.
//
// With -tags tls the program links TLS. Then -transport tls works, with the
// floor of tcp, and the other transports show the cost of the linked code.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// floorEnv makes this binary the floor. It has the "network address" to connect
// to.
const floorEnv = "SPAWNBENCH_FLOOR"

func main() {
	if to, ok := os.LookupEnv(floorEnv); ok {
		floorChild(to)
	}
	beBusy()
	forkspawn.RegisterWarmUp("heap", loadHeap)
	forkspawn.Register("wait", func(ctx context.Context, _ *forkspawn.Parent) error {
		<-ctx.Done()
		return nil
	})
	forkspawn.Init()

	n := flag.Int("n", 200, "children in each row of the table")
	warm := flag.Int("warmup", 10, "children before the measured ones")
	methods := flag.String("method", "exec", "comma-separated start `methods`")
	spares := flag.Int("spares", 0, "also measure children from this many spares, for each method")
	heaps := sizes{0}
	flag.Var(&heaps, "heap",
		"`sizes` of the heap of a template, such as 1M,100M,1G; for method forkserver")
	inits := durations{0}
	flag.Var(&inits, "init",
		"`times` for which the program computes before it calls forkspawn.Init, such as 0,50ms")
	transports := flag.String("transport", "uds,tcp", "comma-separated transports")
	asJSON := flag.Bool("json", false, "print one JSON array")
	children := flag.Int("burst", 0, "start this many children at once, and measure CPU time")
	atOnce := flag.Int("at-once", 64, "calls of Spawn at a time, for -burst")
	rounds := flag.Int("rounds", 5, "bursts of each row, for -burst")
	flag.Parse()
	if flag.NArg() > 0 || *n < 1 || *warm < 0 || *spares < 0 || *children < 0 || *atOnce < 1 ||
		*rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if *children > 0 {
		rows, err := measureBursts(kinds(methodsOf(*methods), *spares, heaps, inits), *children,
			*atOnce, *rounds)
		if err == nil {
			err = printBursts(os.Stdout, rows, *asJSON)
		}
		exitOn(err)
		return
	}
	var results []result
	for _, network := range strings.Split(*transports, ",") {
		r, err := measure(kinds(methodsOf(*methods), *spares, heaps, inits), network, *n,
			*warm)
		exitOn(err)
		results = append(results, r...)
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		exitOn(enc.Encode(results))
		return
	}
	printTables(os.Stdout, results)
}

// exitOn ends the program if there is an error.
func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "spawnbench:", err)
		os.Exit(1)
	}
}

// kind is a combination of method, spares, heap and init.
type kind struct {
	method forkspawn.Method
	spares int           // 0: no spares
	heap   int           // of the template, in bytes
	init   time.Duration // of computing before Init
}

// methodsOf returns the methods of a comma-separated list.
func methodsOf(list string) (methods []forkspawn.Method) {
	for _, name := range strings.Split(list, ",") {
		methods = append(methods, forkspawn.Method(name))
	}
	return methods
}

// kinds returns all combinations. Only method forkserver has a heap.
func kinds(
	methods []forkspawn.Method, spares int, heaps []int, inits []time.Duration,
) (list []kind) {
	for _, method := range methods {
		of := heaps
		if method != forkspawn.MethodForkserver {
			of = []int{0}
		}
		for _, init := range inits {
			for _, heap := range of {
				for _, k := range slices.Compact([]int{0, spares}) {
					list = append(list, kind{method, k, heap, init})
				}
			}
		}
	}
	return list
}

// result has the results of one row. All times but init_ms are in microseconds.
type result struct {
	Method    forkspawn.Method `json:"method"`
	Transport string           `json:"transport"`
	Spares    int              `json:"spares"`
	Heap      int              `json:"heap"` // bytes
	InitMS    float64          `json:"init_ms"`
	N         int              `json:"n"`
	Ready     percentiles      `json:"ready_us"`
	Floor     percentiles      `json:"floor_us"`
	Ratio     float64          `json:"ratio_p50"` // of ready to the floor
	// of ready to method exec with the same init and no spares; 0 if not measured
	ToExec float64            `json:"ratio_to_exec_p50"`
	Phases map[string]float64 `json:"phases_us"` // means
	Stop   percentiles        `json:"stop_us"`
}

type percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// row has the measurements of one kind.
type row struct {
	kind
	s *forkspawn.Spawner

	ready, stop []time.Duration
	phases      forkspawn.BootTimes // sums
	stopping    time.Duration
}

// newRow makes a Spawner and waits until its template and spares are ready.
func newRow(k kind, listen transport.Addr) (*row, error) {
	cfg := forkspawn.Config{Method: k.method, Listen: listen, Spares: k.spares}
	cfg.Command.Env = k.environ()
	if k.heap > 0 {
		cfg.WarmUp = "heap"
	}
	s, err := forkspawn.New(cfg)
	if err != nil {
		return nil, err
	}
	err = s.AwaitTemplate(context.Background()) // bounded by the Spawner
	if err == nil {
		err = s.AwaitSpares(context.Background())
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return &row{kind: k, s: s}, nil
}

// listenOn has the Config.Listen of each transport.
var listenOn = map[string]transport.Addr{
	"uds": {},
	"tcp": {Scheme: "tcp", Target: "127.0.0.1:0"},
	"tls": {Scheme: "tls", Target: "127.0.0.1:0"},
}

// measure runs warm+n rounds. In each round every kind and the floor have one turn.
func measure(kinds []kind, network string, n, warm int) ([]result, error) {
	listen, ok := listenOn[network]
	if !ok {
		return nil, fmt.Errorf("-transport %q: want uds, tcp or tls", network)
	}
	var rows []*row
	for _, k := range kinds {
		r, err := newRow(k, listen)
		if err != nil {
			return nil, err
		}
		defer r.s.Close()
		rows = append(rows, r)
	}
	f, err := newFloor(network)
	if err != nil {
		return nil, err
	}
	defer f.close()

	var floor []time.Duration
	var turns []func(counts bool) error
	for _, r := range rows {
		turns = append(turns, r.turn)
	}
	turns = append(turns, func(counts bool) error {
		took, err := f.start()
		if counts {
			floor = append(floor, took)
		}
		return err
	})
	for i := range warm + n {
		for j := range turns { // each goes first in its turn
			if err := turns[(i+j)%len(turns)](i >= warm); err != nil {
				return nil, err
			}
		}
	}
	var results []result
	floors := percentilesOf(floor)
	execs := map[time.Duration]float64{} // by init
	for _, r := range rows {
		res := r.result(network)
		res.Floor, res.Ratio = floors, round3(res.Ready.P50/floors.P50)
		if r.method == forkspawn.MethodExec && r.spares == 0 {
			execs[r.init] = res.Ready.P50
		}
		results = append(results, res)
	}
	for i, r := range rows {
		if exec, ok := execs[r.init]; ok {
			results[i].ToExec = round3(results[i].Ready.P50 / exec)
		}
	}
	return results, nil
}

// turn spawns one child and stops it. Then it waits until all spares are ready
// again, so that their start does not disturb the next turn.
func (r *row) turn(counts bool) error {
	ctx := context.Background() // the Spawner bounds each wait
	c, err := r.s.Spawn(ctx, spawnspec.Spec{Entry: "wait"})
	if err != nil {
		return err
	}
	boot := c.Boot()
	stopped, err := c.Stop(ctx)
	if err == nil {
		err = r.s.AwaitSpares(ctx)
	}
	if err != nil || !counts {
		return err
	}
	if boot.Spare != (r.spares > 0) {
		return fmt.Errorf("%d spares, but boot.Spare is %t", r.spares, boot.Spare)
	}
	r.ready, r.stop = append(r.ready, boot.Total), append(r.stop, stopped.Elapsed)
	r.stopping += stopped.Elapsed
	r.phases.Launch += boot.Launch
	r.phases.Runtime += boot.Runtime
	r.phases.Init += boot.Init
	r.phases.Connect += boot.Connect
	r.phases.Hello += boot.Hello
	r.phases.Ready += boot.Ready
	return nil
}

func (r *row) result(network string) result {
	n := len(r.ready)
	mean := func(d time.Duration) float64 { return micros(d / time.Duration(n)) }
	return result{
		Method: r.method, Transport: network, Spares: r.spares, Heap: r.heap,
		InitMS: micros(r.init) / 1000, N: n,
		Ready: percentilesOf(r.ready), Stop: percentilesOf(r.stop),
		Phases: map[string]float64{
			"launch": mean(r.phases.Launch), "runtime": mean(r.phases.Runtime),
			"init":    mean(r.phases.Init),
			"connect": mean(r.phases.Connect), "hello": mean(r.phases.Hello),
			"ready": mean(r.phases.Ready),
			"stop":  mean(r.stopping),
		},
	}
}

// floor starts this binary with os/exec and waits for one byte.
type floor struct {
	dir string
	ln  net.Listener
}

func newFloor(network string) (*floor, error) {
	dir, err := os.MkdirTemp("", "spawnbench-")
	if err != nil {
		return nil, err
	}
	f := &floor{dir: dir}
	if network == "uds" {
		f.ln, err = net.Listen("unix", filepath.Join(dir, "s"))
	} else {
		f.ln, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return f, nil
}

func (f *floor) close() {
	f.ln.Close()
	os.RemoveAll(f.dir)
}

func (f *floor) start() (time.Duration, error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), floorEnv+"="+f.ln.Addr().Network()+" "+f.ln.Addr().String())
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	conn, err := f.ln.Accept()
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	took := time.Since(began)
	if conn != nil {
		conn.Close()
	}
	return took, errors.Join(err, cmd.Wait())
}

func floorChild(to string) {
	network, addr, _ := strings.Cut(to, " ")
	conn, err := net.Dial(network, addr)
	if err == nil {
		_, err = conn.Write([]byte{1})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "spawnbench: floor:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func percentilesOf(d []time.Duration) percentiles {
	slices.Sort(d)
	at := func(p int) float64 { return micros(d[min(len(d)*p/100, len(d)-1)]) }
	return percentiles{at(50), at(90), at(99)}
}

func micros(d time.Duration) float64 { return float64(d.Round(100*time.Nanosecond)) / 1000 }

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }

func printTables(w io.Writer, results []result) {
	fmt.Fprintf(w, "%s %s/%s, %d CPUs%s\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), load())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw,
		"method\ttransport\tspares\theap\tinit\tn\t"+
			"ready p50\tp90\tp99\tto exec\tfloor p50\tratio\tstop p50\tµs\t")
	for _, r := range results {
		toExec := "-"
		if r.ToExec > 0 {
			toExec = fmt.Sprintf("%.3f", r.ToExec)
		}
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.0f\t%.0f\t%s\t%.0f\t%.2f\t%.0f\t\t\n", r.name(), r.N,
			r.Ready.P50, r.Ready.P90, r.Ready.P99, toExec, r.Floor.P50, r.Ratio, r.Stop.P50)
	}
	tw.Flush()
	fmt.Fprintln(w)
	phases := []string{"launch", "runtime", "init", "connect", "hello", "ready", "stop"}
	fmt.Fprintln(tw,
		"method\ttransport\tspares\theap\tinit\t"+strings.Join(phases, "\t")+"\tmean µs\t")
	for _, r := range results {
		fmt.Fprintf(tw, "%s\t", r.name())
		for _, p := range phases {
			fmt.Fprintf(tw, "%.0f\t", r.Phases[p])
		}
		fmt.Fprintln(tw, "\t")
	}
	tw.Flush()
}

// name returns the first cells of a row in both tables.
func (r *result) name() string {
	return fmt.Sprintf("%s\t%s\t%d\t%s\t%gms", r.Method, r.Transport, r.Spares, sizeString(r.Heap),
		r.InitMS)
}

// load returns the load average, or "" if it is unknown.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return ", load " + strings.Join(strings.Fields(string(b))[:3], " ")
}
