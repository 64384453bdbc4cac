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

// calls are how many system calls were made to read and to write, whether or not they found anything (proc_pid_io(5)).
type calls struct{ reads, writes float64 }

// callsOf counts those of a process.
func callsOf(t testing.TB, pid string) (c calls) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pid, "io"))
	if err != nil {
		t.Skip(err) // a kernel without CONFIG_TASK_IO_ACCOUNTING, or a system that forbids it
	}
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "syscr: %g", &c.reads)
		fmt.Sscanf(line, "syscw: %g", &c.writes)
	}
	return c
}

// onlyChild returns the process id of this process's child.
func onlyChild(t testing.TB) string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // that thread has ended
		}
		all = append(all, strings.Fields(string(text))...)
	}
	if len(all) == 0 {
		t.Skip("a kernel without CONFIG_PROC_CHILDREN")
	}
	require.Len(t, all, 1)
	return all[0]
}

// count returns how many calls an operation of f costs here and in the child.
func count(t testing.TB, f func(n int) error, n int) (here, there calls) {
	t.Helper()
	require.NoError(t, f(n)) // the first ones find buffers that are not there yet
	child := onlyChild(t)
	h, c := callsOf(t, "self"), callsOf(t, child)
	require.NoError(t, f(n))
	return callsOf(t, "self").since(h, n), callsOf(t, child).since(c, n)
}

func (c calls) since(before calls, n int) calls {
	return calls{(c.reads - before.reads) / float64(n), (c.writes - before.writes) / float64(n)}
}

func (c calls) String() string { return fmt.Sprintf("%6.3f reads %6.3f writes", c.reads, c.writes) }

// A message costs the system calls that it must and no more. They are counted in both processes, beside the floor's.
//
//	go test -race -v -run SystemCalls ./bench
func TestTheSystemCallsOfAMessage(t *testing.T) {
	if !raceDetector {
		t.Skip("recvfrom and sendto are not counted; in a build for the race detector the library calls read and write in their place")
	}
	for _, test := range []struct {
		name string
		n    int
		most float64 // writes of one message, with those that found the socket full; 0: that depends on the scheduler
		make func(t *testing.T) (ours, floor func(n int) error)
	}{
		{"round trip 32 B", 2000, 1.5, func(t *testing.T) (ours, floor func(int) error) { return trips(t, "uds", false, 32) }},
		{"round trip 32 B typed", 2000, 1.5, func(t *testing.T) (ours, floor func(int) error) { return trips(t, "uds", true, 32) }},
		{"round trip 64 KiB", 1000, 1.5, func(t *testing.T) (ours, floor func(int) error) { return trips(t, "uds", false, 64<<10) }},
		{"round trip 64 KiB typed", 1000, 1.5, func(t *testing.T) (ours, floor func(int) error) { return trips(t, "uds", true, 64<<10) }},
		{"stream 64 B one by one", 20_000, 1.8, func(t *testing.T) (ours, floor func(int) error) { return stream(t, "uds", false, false, 64) }},
		{"stream 64 B in batches", 100_000, 0.006, func(t *testing.T) (ours, floor func(int) error) { return stream(t, "uds", false, true, 64) }},
		{"stream 1 KiB in batches", 20_000, 0.06, func(t *testing.T) (ours, floor func(int) error) { return stream(t, "uds", false, true, 1<<10) }},
		{"64 senders 64 B typed", 100_000, 0, func(t *testing.T) (ours, floor func(int) error) { return crowd(t, "uds", 64, 64) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			ours, floor := test.make(t)
			here, there := count(t, ours, test.n)
			floorHere, floorThere := count(t, floor, test.n)
			t.Logf("\nours, here  %v\n      there %v\nraw,  here  %v\n      there %v", here, there, floorHere, floorThere)
			if test.most > 0 {
				assert.Less(t, here.writes, test.most)
				assert.Less(t, there.writes, test.most)
			}
		})
	}
}
