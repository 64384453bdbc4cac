//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() {
	const often = 300 * time.Millisecond
	forkspawn.RegisterWarmUp("collects often", func() error {
		loaded.pid = os.Getpid()
		template.CollectAfter = often
		return nil
	})
	forkspawn.RegisterWarmUp("collects never", func() error {
		loaded.pid = os.Getpid()
		template.CollectAfter = often
		debug.SetGCPercent(-1)
		return nil
	})
	forkspawn.RegisterWarmUp("leaves a slow timer", func() error {
		loaded.pid = os.Getpid()
		time.AfterFunc(200*time.Millisecond, func() {
			// Longer than the template runs after a signal.
			time.Sleep(1500 * time.Millisecond)
			// each child has the timer too
			os.WriteFile(fmt.Sprint(os.Getenv(signEnv), os.Getpid()), nil, 0o600)
		})
		return nil
	})
	moreEntries["collections"] = func(ctx context.Context, p *forkspawn.Parent) error {
		var stats debug.GCStats
		debug.ReadGCStats(&stats)
		return p.Send(ctx, []int{loaded.pid, int(stats.NumGC)})
	}
}

// isArmed reports whether all threads of a template are frozen. They block all
// signals then.
func isArmed(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, task := range tasks {
		status, _ := os.ReadFile(task)
		// SIGKILL and SIGSTOP cannot be blocked
		if !strings.Contains(string(status), "SigBlk:\tfffffffffffbfeff\n") {
			return false
		}
	}
	return len(tasks) > 1
}

func awaitArmed(t testing.TB, pid int) {
	t.Helper()
	testkit.Eventually(t, "the template waits for a request with its threads stopped", func() bool {
		return isArmed(pid)
	})
}

// disarm makes a template run for a second.
func disarm(t testing.TB, pid int) {
	t.Helper()
	awaitArmed(t, pid)
	require.NoError(t, syscall.Kill(pid, syscall.SIGWINCH))
	testkit.Eventually(t, "the template runs", func() bool { return !isArmed(pid) })
}

func TestTemplate_CollectsGarbage(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	for _, warmUp := range []string{"collects often", "collects never"} {
		t.Run(warmUp, func(t *testing.T) {
			s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = warmUp })
			collections := func() (template, n int) {
				var report []int
				require.NoError(t,
					spawn(t, s, spawnspec.Spec{Entry: "collections"}).
						Recv(testkit.Context(t), &report))
				return report[0], report[1]
			}
			template, before := collections()
			for range 2 {
				disarm(t, template) // for a second
				awaitArmed(t, template)
			}
			after, n := collections()
			assert.Equal(t, template, after)
			if warmUp == "collects never" {
				assert.Equal(t, before, n)
			} else {
				assert.Greater(t, n, before)
			}
		})
	}
}

// The timer's function begins while the template runs after a signal, and takes
// longer than that.
func TestTemplate_IsArmedAgainAfterATimer(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	sign := filepath.Join(t.TempDir(), "sign")
	t.Setenv(signEnv, sign)
	s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = "leaves a slow timer" })
	_, before := spawnWarm(t, s)
	disarm(t, before.Template)
	testkit.Eventually(t, "the function has ended", func() bool {
		_, err := os.Stat(fmt.Sprint(sign, before.Template))
		return err == nil
	})
	awaitArmed(t, before.Template)
	_, after := spawnWarm(t, s)
	assert.Equal(t, before.Template, after.Template)
}

// plainProgram has no functions of AfterFork. With them a child would start all
// its threads before it joins.
const plainProgram = `package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

var template int

func main() {
	forkspawn.Register("whole", whole)
	forkspawn.RegisterWarmUp("pid", func() error {
		template = os.Getpid()
		return nil
	})
	forkspawn.Init()
	for _, spares := range []int{0, 2} {
		if err := run(spares); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("ok")
}

func run(spares int) error {
	s, err := forkspawn.New(forkspawn.Config{
		Method: forkspawn.MethodForkserver, WarmUp: "pid", Spares: spares,
	})
	if err != nil {
		return err
	}
	defer s.Close()
	first := 0
	for i := range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "whole"})
		if err != nil {
			return err
		}
		var report struct{ Template, Procs int }
		if err := c.Recv(ctx, &report); err != nil {
			return err
		}
		if first == 0 {
			first = report.Template
		}
		if report.Template != first || first == 0 || report.Procs != runtime.GOMAXPROCS(0) {
			return fmt.Errorf("child %d: %+v", i, report)
		}
		if r, err := c.Stop(ctx); err != nil || r.By != forkspawn.Asked {
			return fmt.Errorf("child %d ended: %v, %v", i, r, err)
		}
		if i%4 == 3 {
			syscall.Kill(first, syscall.SIGWINCH) // the template runs for a second
		}
	}
	return nil
}

// whole uses all threads, and the poller.
func whole(ctx context.Context, p *forkspawn.Parent) error {
	var stop atomic.Bool
	ended := make(chan bool)
	go func() {
		for !stop.Load() {
		}
		close(ended)
	}()
	runtime.GC() // preempts the loop
	<-time.After(time.Millisecond)
	stop.Store(true)
	<-ended
	if err := exec.Command("/bin/sh", "-c", "exit 0").Run(); err != nil {
		return err
	}
	report := map[string]int{"template": template, "procs": runtime.GOMAXPROCS(0)}
	if err := p.Send(ctx, report); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
`

// The threads of these children start when their parent knows that they are
// ready.
func TestTemplate_ProgramWithoutAfterFork(t *testing.T) {
	testkit.Long(t) // it builds the standard library without cgo
	if raceDetector {
		t.Skip("the program is built without the race detector")
	}
	program := testkit.BuildSource(t, plainProgram, "CGO_ENABLED=0")
	ctx, cancel := context.WithTimeout(t.Context(), 2*bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err)
	assert.Equal(t, "ok\n", string(out))
}
