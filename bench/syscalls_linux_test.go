package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// calls are the numbers of system calls to read and to write, including those that
// failed (proc_pid_io(5)).
type calls struct{ reads, writes float64 }

// callsOf returns the calls of a process.
func callsOf(t testing.TB, pid string) (c calls) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "io"))
	if err != nil {
		t.Skip(err) // no CONFIG_TASK_IO_ACCOUNTING in the kernel, or no permission
	}
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "syscr: %g", &c.reads)
		fmt.Sscanf(line, "syscw: %g", &c.writes)
	}
	return c
}

// onlyChild returns the pid of the only child of this process.
func onlyChild(t testing.TB) string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		all = append(all, strings.Fields(string(text))...)
	}
	if len(all) == 0 {
		t.Skip("a kernel without CONFIG_PROC_CHILDREN")
	}
	require.Len(t, all, 1)
	return all[0]
}

// count returns the calls per operation of f, in this process and in the child.
func count(t testing.TB, f func(n int) error, n int) (here, there calls) {
	t.Helper()
	require.NoError(t, f(n)) // warm-up: allocates the buffers
	child := onlyChild(t)
	h, c := callsOf(t, "self"), callsOf(t, child)
	require.NoError(t, f(n))
	return callsOf(t, "self").since(h, n), callsOf(t, child).since(c, n)
}

func (c calls) since(before calls, n int) calls {
	return calls{(c.reads - before.reads) / float64(n), (c.writes - before.writes) / float64(n)}
}

func (c calls) String() string { return fmt.Sprintf("%6.3f reads %6.3f writes", c.reads, c.writes) }

// A message must not cost more system calls than necessary. The log has the
// numbers of both processes and of the floor.
//
//	go test -race -v -run TestSystemCalls ./bench
func TestSystemCalls_PerMessage(t *testing.T) {
	if !raceDetector {
		t.Skip("needs -race: the library then calls read and write, and not recvfrom and sendto, " +
			"which the kernel does not count")
	}
	for _, test := range []struct {
		name string
		n    int
		most float64 // writes per message, including failed ones; 0: depends on the scheduler
		make func(testing.TB) (ours, floor func(n int) error)
	}{
		{"round trip 32 B", 2000, 1.5, udsTrips(false, 32)},
		{"round trip 32 B typed", 2000, 1.5, udsTrips(true, 32)},
		{"round trip 64 KiB", 1000, 1.5, udsTrips(false, 64<<10)},
		{"round trip 64 KiB typed", 1000, 1.5, udsTrips(true, 64<<10)},
		{"stream 64 B one by one", 20_000, 1.8, udsStream(false, 64)},
		{"stream 64 B in batches", 100_000, 0.006, udsStream(true, 64)},
		{"stream 1 KiB in batches", 20_000, 0.06, udsStream(true, 1<<10)},
		{"64 senders 64 B typed", 100_000, 0, func(t testing.TB) (ours, floor func(n int) error) {
			return crowd(t, "uds", 64, 64)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ours, floor := test.make(t)
			here, there := count(t, ours, test.n)
			floorHere, floorThere := count(t, floor, test.n)
			t.Logf("\nours, here  %v\n      there %v\nraw,  here  %v\n      there %v", here, there,
				floorHere, floorThere)
			if test.most > 0 {
				assert.Less(t, here.writes, test.most)
				assert.Less(t, there.writes, test.most)
			}
		})
	}
}

func udsTrips(typed bool, size int) func(testing.TB) (ours, floor func(n int) error) {
	return func(t testing.TB) (ours, floor func(n int) error) {
		return trips(t, "uds", typed, size)
	}
}

func udsStream(batched bool, size int) func(testing.TB) (ours, floor func(n int) error) {
	return func(t testing.TB) (ours, floor func(n int) error) {
		return stream(t, "uds", false, batched, size)
	}
}
