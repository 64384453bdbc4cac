//go:build unix

package forkspawn_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// 64 goroutines start a thousand children, if SPAWNWIRE_LONG=1 is set, or else a
// few. With the race detector there are a hundred, because it makes each child
// several times as large. The log has the figures:
//
//	SPAWNWIRE_LONG=1 go test -v -count=1 -run TestScale_Thousand ./forkspawn
func TestScale_ThousandChildrenAtOnce(t *testing.T) {
	n := 1000
	switch {
	case !testkit.IsLong():
		n = 50
	case raceDetector:
		n = 100
	}
	requireRoom(t, n)
	spawntest.NoLeaks(t)
	s := newSpawner(t,
		forkspawn.Config{Stdout: forkspawn.Null(), Stderr: forkspawn.Capture(nil),
			BootTimeout: bound, StopGrace: bound})
	g := newGroup(t, s, forkspawn.GroupConfig{})
	before := measure(t)

	began := time.Now()
	inParallel(n, func(int) {
		_, err := g.Spawn(t.Context(), spawnspec.Spec{Entry: "echo"})
		assert.NoError(t, err)
	})
	started := time.Since(began)
	children := s.Children()
	require.Len(t, children, n)

	began = time.Now()
	inParallel(n, func(i int) {
		for j := range 10 {
			assert.NoError(t, children[i].Send(t.Context(), fmt.Sprint(i, " ", j)))
			var got string
			assert.NoError(t, children[i].Recv(t.Context(), &got))
			assert.Equal(t, fmt.Sprint(i, " ", j), got)
		}
	})
	exchanged := time.Since(began)

	for _, c := range children {
		require.True(t, running(c.PID()), "all live at once")
	}
	peak := measure(t) // of threads, too, because the Go runtime keeps them
	assert.Less(t, peak.threads, 250,
		"of 64 goroutines that start children and talk to them, not of %d children", n)

	began = time.Now()
	enough := errors.New("enough")
	g.Cancel(enough)
	require.Equal(t, enough, waitFor(t, g), "nobody failed")
	stopped := time.Since(began)
	testkit.Eventually(t, "descriptors are given back", func() bool {
		return measure(t).descriptors <= before.descriptors
	})
	for _, c := range children {
		result, err := c.Stop(t.Context())
		require.NoError(t, err)
		require.Equal(t, forkspawn.Asked, result.By)
		require.Equal(t, forkspawn.ExitedStatus(0), result.Status, c.StderrTail())
	}

	perChild := func(before, peak int64) string {
		return fmt.Sprintf("%.1f KiB", float64(peak-before)/1024/float64(n))
	}
	t.Logf("%d children: started in %v (%v each), 10 messages there and back with each in %v, stopped by one cancel in %v",
		n, started, started/time.Duration(n), exchanged, stopped)
	t.Logf("the parent has for each: heap %s, stacks %s, resident %s, %.2f descriptors, %.2f goroutines; and %d threads for all",
		perChild(before.heap, peak.heap), perChild(before.stacks, peak.stacks),
		perChild(before.resident, peak.resident),
		float64(peak.descriptors-before.descriptors)/float64(n),
		float64(peak.goroutines-before.goroutines)/float64(n), peak.threads)
}

var spawns = flag.Int("spawns", 0,
	"how many processes TestScale_SpawnsInARow starts; 0 is a number that takes seconds")

// The parent's memory, threads and descriptors do not grow with the number of
// children that have ended. The full length is
//
//	SPAWNWIRE_LONG=1 go test -v -count=1 -run TestScale_SpawnsInARow ./forkspawn -spawns 10000
func TestScale_SpawnsInARowLeaveNothing(t *testing.T) {
	n := *spawns
	switch {
	case n > 0:
	case !testkit.IsLong():
		n = 100
	case raceDetector:
		n = 200
	default:
		n = 1000
	}
	spawntest.NoLeaks(t)
	s := newSpawner(t,
		forkspawn.Config{Stdout: forkspawn.Null(), Stderr: forkspawn.Capture(nil),
			BootTimeout: bound, StopGrace: bound})
	inARow := func(n int) time.Duration {
		began := time.Now()
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for next.Add(1) <= int64(n) {
					c, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: "echo"})
					if !assert.NoError(t, err) {
						return
					}
					var got string
					assert.NoError(t, c.Send(t.Context(), "hello"))
					assert.NoError(t, c.Recv(t.Context(), &got))
					result, err := c.Stop(t.Context())
					assert.NoError(t, err)
					assert.Equal(t, forkspawn.Asked, result.By)
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	first := min(1000, n/2)
	inARow(first)
	empty := spawntest.TakeSnapshot(t)
	before := measure(t)
	took := inARow(n - first)
	assert.Empty(t, empty.Leaks(), "descriptors and goroutines among them")
	after := measure(t)
	t.Logf("after %d: %v", first, before)
	t.Logf("after %d: %v; %v for each of the latter", n, after, took/time.Duration(n-first))
	assert.Less(t, after.heap-before.heap, int64(2<<20))
	if !raceDetector { // the race detector has memory of its own
		assert.Less(t, after.resident-before.resident, int64(8<<20))
	}
	assert.LessOrEqual(t, after.threads, before.threads+50,
		"the Go runtime keeps those that a busy moment takes")
}

// inParallel calls f with each number below n, from 64 goroutines.
func inParallel(n int, f func(int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// figures are measured of this process: bytes, and numbers.
type figures struct {
	heap, stacks, resident           int64
	threads, goroutines, descriptors int
}

func (f figures) String() string {
	return fmt.Sprintf("heap %d KiB, resident %d KiB, %d threads, %d goroutines, %d descriptors",
		f.heap>>10, f.resident>>10, f.threads, f.goroutines, f.descriptors)
}

func measure(t testing.TB) figures {
	t.Helper()
	debug.FreeOSMemory() // it collects garbage, too
	runtime.GC()         // collects what had a finalizer
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := figures{heap: int64(m.HeapAlloc), stacks: int64(m.StackInuse),
		goroutines: runtime.NumGoroutine()}
	for dir, n := range map[string]*int{"/proc/self/task": &f.threads,
		"/proc/self/fd": &f.descriptors} {
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Skip("reads /proc: ", err)
		}
		*n = len(names)
	}
	var size, pages int64
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	_, err = fmt.Sscan(string(b), &size, &pages)
	require.NoError(t, err)
	f.resident = pages * int64(os.Getpagesize())
	return f
}

// requireRoom skips the test if the machine is too small for the children.
func requireRoom(t testing.TB, children int) {
	t.Helper()
	perChild := int64(4 << 20) // bytes of the Go runtime, page tables and kernel stacks
	if raceDetector {
		perChild *= 10
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Skip("reads /proc: ", err)
	}
	_, rest, _ := bytes.Cut(b, []byte("MemAvailable:"))
	var kib int64
	_, err = fmt.Sscan(string(rest), &kib)
	require.NoError(t, err)
	if need := int64(children) * perChild; kib<<10 < need {
		t.Skipf("%d children need %d MiB, and %d are available", children, need>>20, kib>>10)
	}
	var files syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	if need := uint64(children)*5 + 100; uint64(files.Cur) < need {
		t.Skipf("%d children need %d descriptors, and the limit is %d", children, need, files.Cur)
	}
}
