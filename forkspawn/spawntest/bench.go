package spawntest

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// floorEnv makes the test binary the floor of [BenchSpawn].
const floorEnv = "SPAWNTEST_FLOOR"

// settle is how long BenchSpawn sleeps before each start, because a program that
// waits for work has idle processes too.
const settle = 5 * time.Millisecond

// BenchSpawn measures the starts of children that run the named entry: executed
// ones, forked ones, and ones from spares, each in a benchmark of its own. Forked
// ones are skipped where [forkspawn.CheckForkserver] returns an error.
//
// A child is ready when Spawn returns, and it has answered when answer returns. If
// answer is nil, only ready is measured. Starts take turns with those of a floor: the
// test binary, started by os/exec, writes a byte in Main and exits. These are
// reported, of b.N starts each:
//
//	ready-p50-ns, ready-p99-ns     from the call of Spawn until it returns
//	answer-p50-ns, answer-p99-ns   from the call of Spawn until answer returns
//	floor-p50-ns                   from the start until the byte has arrived
//	x/floor                        ready-p50-ns to floor-p50-ns
//
// Each function in with can change the configuration and the spec first. BenchSpawn
// sets Config.Method and Config.Spares itself.
func BenchSpawn(b *testing.B, entry string, answer func(context.Context, *forkspawn.Child) error,
	with ...func(*forkspawn.Config, *spawnspec.Spec)) {
	b.Helper()
	needMain(b)
	for _, how := range []struct {
		name   string
		method forkspawn.Method
		spares int
	}{
		{"exec", forkspawn.MethodExec, 0},
		{"forkserver", forkspawn.MethodForkserver, 0},
		{"spares", forkspawn.MethodExec, 2},
	} {
		b.Run(how.name, func(b *testing.B) {
			if how.method == forkspawn.MethodForkserver {
				if err := forkspawn.CheckForkserver(b.Context()); err != nil {
					b.Skip(err)
				}
			}
			cfg, spec := configure(entry, with)
			cfg.Method, cfg.Spares = how.method, how.spares
			benchSpawn(b, NewSpawner(b, cfg), spec, answer)
		})
	}
}

func benchSpawn(b *testing.B, s *forkspawn.Spawner, spec spawnspec.Spec,
	answer func(context.Context, *forkspawn.Child) error) {
	ctx := b.Context()
	if err := s.AwaitTemplate(ctx); err != nil {
		b.Fatalf("spawntest: %v", err)
	}
	var ready, answered, floors []time.Duration
	for range b.N {
		if err := s.AwaitSpares(ctx); err != nil {
			b.Fatalf("spawntest: %v", err)
		}
		time.Sleep(settle)
		start := time.Now()
		child, err := s.Spawn(ctx, spec)
		ready = append(ready, time.Since(start))
		if err == nil && answer != nil {
			err = answer(ctx, child)
			answered = append(answered, time.Since(start))
		}
		if err != nil {
			b.Fatalf("spawntest: %v", err)
		}
		if _, err := child.Stop(ctx); err != nil {
			b.Fatalf("spawntest: %v", err)
		}
		time.Sleep(settle)
		floors = append(floors, startFloor(b))
	}
	b.ReportMetric(0, "ns/op") // hides ns/op, which would add all of them
	report := func(name string, times []time.Duration) {
		if slices.Sort(times); len(times) > 0 {
			b.ReportMetric(float64(times[len(times)/2]), name+"-p50-ns")
			b.ReportMetric(float64(times[len(times)*99/100]), name+"-p99-ns")
		}
	}
	report("ready", ready)
	report("answer", answered)
	slices.Sort(floors)
	floor := float64(floors[len(floors)/2])
	b.ReportMetric(floor, "floor-p50-ns")
	b.ReportMetric(float64(ready[len(ready)/2])/floor, "x/floor")
}

// startFloor starts the test binary with os/exec, and waits for its byte.
func startFloor(b *testing.B) time.Duration {
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), floorEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatalf("spawntest: floor: %v", err)
	}
	start := time.Now()
	if err = cmd.Start(); err == nil {
		_, err = out.Read(make([]byte, 1))
	}
	took := time.Since(start)
	if err != nil {
		b.Fatalf("spawntest: floor: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("spawntest: floor: %v", err)
	}
	return took
}
