// Command spawnbench measures how long a child takes from the call of Spawn until it is ready, and where
// the time goes, beside the least that any library could need: the same binary started with plain
// os/exec, which connects and writes one byte. Both take turns in one run, as only their ratio means
// something on a machine that other work shares.
//
//	go run ./bench/spawnbench -n 200
//
// The default build links libc where a C compiler is found; CGO_ENABLED=0 makes a static one, which
// starts faster in both columns.
//
// With -tags tls it has TLS linked, so that it measures -transport tls, whose floor is that of tcp, and what
// the linking alone costs the others.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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

// floorEnv makes this binary the floor: "network address" to connect to.
const floorEnv = "SPAWNBENCH_FLOOR"

func main() {
	if to, ok := os.LookupEnv(floorEnv); ok {
		floorChild(to)
	}
	forkspawn.Register("wait", func(ctx context.Context, _ *forkspawn.Parent) error {
		<-ctx.Done()
		return nil
	})
	forkspawn.Init()

	n := flag.Int("n", 200, "children per method and transport")
	warm := flag.Int("warmup", 10, "children before those that count")
	methods := flag.String("method", "exec", "start methods, with commas between")
	transports := flag.String("transport", "uds,tcp", "transports, with commas between")
	asJSON := flag.Bool("json", false, "print one JSON array")
	flag.Parse()
	if flag.NArg() > 0 || *n < 1 || *warm < 0 {
		flag.Usage()
		os.Exit(2)
	}
	var results []result
	for _, m := range strings.Split(*methods, ",") {
		for _, tr := range strings.Split(*transports, ",") {
			r, err := measure(m, tr, *n, *warm)
			if err != nil {
				fmt.Fprintln(os.Stderr, "spawnbench:", err)
				os.Exit(1)
			}
			results = append(results, r)
		}
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(results); err != nil {
			fmt.Fprintln(os.Stderr, "spawnbench:", err)
			os.Exit(1)
		}
		return
	}
	printTables(os.Stdout, results)
}

// result is what one method and transport gave. Times are in microseconds.
type result struct {
	Method    string             `json:"method"`
	Transport string             `json:"transport"`
	N         int                `json:"n"`
	Ready     percentiles        `json:"ready_us"`
	Floor     percentiles        `json:"floor_us"`
	Ratio     float64            `json:"ratio_p50"`
	Phases    map[string]float64 `json:"phases_us"` // means
	Stop      percentiles        `json:"stop_us"`
}

type percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

func measure(method, network string, n, warm int) (result, error) {
	listen := transport.Addr{}
	switch network {
	case "uds":
	case "tcp", "tls":
		listen = transport.Addr{Scheme: network, Target: "127.0.0.1:0"}
	default:
		return result{}, fmt.Errorf("-transport %q: want uds, tcp or tls", network)
	}
	s, err := forkspawn.New(forkspawn.Config{Method: method, Listen: listen})
	if err != nil {
		return result{}, err
	}
	defer s.Close()
	f, err := newFloor(network)
	if err != nil {
		return result{}, err
	}
	defer f.close()

	var ready, floor, stop []time.Duration
	var phases forkspawn.BootTimes // sums
	var stopping time.Duration
	ctx := context.Background() // each wait in here has the Spawner's bounds
	for i := range warm + n {
		var fd time.Duration
		var boot forkspawn.BootTimes
		var stopped forkspawn.StopResult
		spawn := func() error {
			c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "wait"})
			if err != nil {
				return err
			}
			boot = c.Boot()
			stopped, err = c.Stop(ctx)
			return err
		}
		bare := func() (err error) {
			fd, err = f.start()
			return err
		}
		turns := []func() error{spawn, bare}
		if i%2 == 1 { // neither always goes first
			slices.Reverse(turns)
		}
		if err := errors.Join(turns[0](), turns[1]()); err != nil {
			return result{}, err
		}
		if i < warm {
			continue
		}
		ready, floor, stop = append(ready, boot.Total), append(floor, fd), append(stop, stopped.Elapsed)
		stopping += stopped.Elapsed
		phases.Launch += boot.Launch
		phases.Runtime += boot.Runtime
		phases.Init += boot.Init
		phases.Connect += boot.Connect
		phases.Hello += boot.Hello
		phases.Ready += boot.Ready
	}
	r := result{Method: method, Transport: network, N: n, Ready: percentilesOf(ready), Floor: percentilesOf(floor), Stop: percentilesOf(stop)}
	r.Ratio = round2(r.Ready.P50 / r.Floor.P50)
	mean := func(d time.Duration) float64 { return micros(d / time.Duration(n)) }
	r.Phases = map[string]float64{
		"launch": mean(phases.Launch), "runtime": mean(phases.Runtime), "init": mean(phases.Init),
		"connect": mean(phases.Connect), "hello": mean(phases.Hello), "ready": mean(phases.Ready),
		"stop": mean(stopping),
	}
	return r, nil
}

// floor starts this binary with os/exec and waits for one byte from it.
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

func round2(x float64) float64 { return float64(int(x*100+0.5)) / 100 }

func printTables(w io.Writer, results []result) {
	fmt.Fprintf(w, "%s %s/%s, %d CPUs%s\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), load())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "method\ttransport\tn\tready p50\tp90\tp99\tfloor p50\tratio\tstop p50\tµs\t")
	for _, r := range results {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.0f\t\t\n",
			r.Method, r.Transport, r.N, r.Ready.P50, r.Ready.P90, r.Ready.P99, r.Floor.P50, r.Ratio, r.Stop.P50)
	}
	tw.Flush()
	fmt.Fprintln(w)
	phases := []string{"launch", "runtime", "init", "connect", "hello", "ready", "stop"}
	fmt.Fprintln(tw, "method\ttransport\t"+strings.Join(phases, "\t")+"\tmean µs\t")
	for _, r := range results {
		fmt.Fprintf(tw, "%s\t%s\t", r.Method, r.Transport)
		for _, p := range phases {
			fmt.Fprintf(tw, "%.0f\t", r.Phases[p])
		}
		fmt.Fprintln(tw, "\t")
	}
	tw.Flush()
}

// load tells how busy the machine is, where it says so.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return ", load " + strings.Join(strings.Fields(string(b))[:3], " ")
}
