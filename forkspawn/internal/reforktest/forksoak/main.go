//go:build linux && (amd64 || arm64)

// Command forksoak forks a running Go program thousands of times without exec,
// in difficult shapes, and counts the failures. Each child uses the whole
// runtime: collections, goroutines, timers, preemption, a socket, an exec, and
// another fork.
//
//	CGO_ENABLED=0 go run ./forkspawn/internal/reforktest/forksoak
//	CGO_ENABLED=0 go run ./forkspawn/internal/reforktest/forksoak -n 300
//
// After a hang, a crash or a wrong result it exits with status 1, and prints
// the name of a file with the stderr of templates and children.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

// templateEnv makes this program a template. Its value is "shape forks".
const templateEnv = "FORKSOAK_TEMPLATE"

func main() {
	if job, ok := os.LookupEnv(templateEnv); ok {
		template(job)
		return
	}
	n := flag.Int("n", 20000, "forks in all shapes together")
	only := flag.String("shape", "", "run these shapes only, with commas between")
	flag.Parse()
	if flag.NArg() > 0 || *n < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if _, err := refork.Prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "forksoak:", err)
		os.Exit(1)
	}
	todo := shapes
	if *only != "" {
		todo = nil
		for name := range strings.SplitSeq(*only, ",") {
			i := slices.IndexFunc(shapes, func(s shape) bool { return s.name == name })
			if i < 0 {
				fmt.Fprintf(os.Stderr, "forksoak: no shape %q\n", name)
				os.Exit(2)
			}
			todo = append(todo, shapes[i])
		}
	}
	dir, err := os.MkdirTemp("", "forksoak-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "forksoak:", err)
		os.Exit(1)
	}
	start := time.Now()
	const row = "%14v %7v %8v %6v %8v %6v %8v %8v %8v %11v %11v %11v %11v\n"
	fmt.Printf(row, "shape", "forks", "stopped", "hangs", "crashes", "wrong", "refused", "retries",
		"threads", "fork p50", "p99", "hello p50", "p99")
	bad, forks := 0, 0
	for i, s := range todo {
		share := *n/len(todo) + min(1, max(0, *n%len(todo)-i))
		t := run(s, share, filepath.Join(dir, s.name+".stderr"))
		fmt.Printf(row, s.name,
			t.Forks, t.Stopped, t.Hangs, t.Crashes, t.Wrong, t.Refused,
			t.Retries, t.Threads, percentile(t.Call, 50), percentile(t.Call, 99),
			percentile(t.Hello, 50), percentile(t.Hello, 99))
		bad += t.Hangs + t.Crashes + t.Wrong + t.Refused
		forks += t.Forks
	}
	fmt.Printf("%d forks, %d failures, %.0f s\n", forks, bad, time.Since(start).Seconds())
	if bad > 0 {
		fmt.Println("stderr of templates and children:", dir)
		os.Exit(1)
	}
	os.RemoveAll(dir)
}

// tally has the results of a template.
type tally struct {
	Forks, Hangs, Crashes, Wrong, Refused, Retries int
	// forks by a process that was frozen before the request
	Stopped int
	// the target of the storm, in the first report
	Storm       int `json:",omitempty"`
	Threads     int // of the last fork
	Call, Hello []time.Duration
	Failures    []string
}

// add adds part, without Threads.
func (t *tally) add(part tally) {
	t.Forks += part.Forks
	t.Hangs += part.Hangs
	t.Crashes += part.Crashes
	t.Wrong += part.Wrong
	t.Refused += part.Refused
	t.Retries += part.Retries
	t.Stopped += part.Stopped
	t.Call = append(t.Call, part.Call...)
	t.Hello = append(t.Hello, part.Hello...)
	t.Failures = append(t.Failures, part.Failures...)
}

// run runs a template for n forks. If the template dies, that is a crash, and
// run starts another one.
func run(s shape, n int, stderr string) (sum tally) {
	file, err := os.Create(stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "forksoak:", err)
		os.Exit(1)
	}
	defer file.Close()
	for range 3 {
		t, err := runTemplate(s, n-sum.Forks, file)
		sum.add(t)
		sum.Threads = max(t.Threads, sum.Threads)
		for _, f := range t.Failures {
			fmt.Fprintf(os.Stderr, "forksoak: %s: %s\n", s.name, f)
		}
		if err == nil {
			break
		}
		sum.Crashes++
		fmt.Fprintf(os.Stderr, "forksoak: %s: template: %v; see %s\n", s.name, err, stderr)
	}
	return sum
}

// runTemplate reads a template's reports, one in each line. A report has the
// results since the one before.
func runTemplate(s shape, n int, stderr *os.File) (t tally, err error) {
	exe, err := os.Executable()
	if err != nil {
		return t, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), templateEnv+"="+s.name+" "+strconv.Itoa(n), "GOTRACEBACK=system")
	if s.procs > 0 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS="+strconv.Itoa(s.procs))
	}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the kernel sends the parent-death signal at the end of the thread
	defer runtime.UnlockOSThread()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return t, err
	}
	if err := cmd.Start(); err != nil {
		return t, err
	}
	end, stormy := make(chan struct{}), false
	// A template without a report for this long hangs itself. A nested fork takes four
	// times Bound at most.
	const silence = 6 * selftest.Bound
	watchdog := time.AfterFunc(silence, func() {
		cmd.Process.Signal(syscall.SIGQUIT)
		time.Sleep(time.Second)
		cmd.Process.Kill()
	})
	for decoder := json.NewDecoder(out); ; {
		var part tally
		if decoder.Decode(&part) != nil {
			break
		}
		watchdog.Reset(silence)
		if s.storm && !stormy {
			stormy = true
			go storm(part.Storm, s.asked, end)
		}
		t.add(part)
		t.Threads = part.Threads
	}
	close(end)
	err = cmd.Wait()
	watchdog.Stop()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // also its descendants
	if err == nil && t.Forks < n {
		err = fmt.Errorf("ended after %d of %d forks", t.Forks, n)
	}
	return t, err
}

// storm sends signals all the time, or in gusts. Among them are the runtime's
// preemption signal and the freeze signal.
func storm(pid int, gusts bool, end <-chan struct{}) {
	for i := 0; ; i++ {
		for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGURG,
			syscall.SIGWINCH, 34, syscall.SIGCONT} {
			select {
			case <-end:
				return
			default:
			}
			syscall.Kill(pid, sig)
		}
		time.Sleep(20 * time.Microsecond)
		if gusts && i%20 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, len(d)*p/100)].Round(time.Microsecond)
}
