package spawntest

import (
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// NoLeaks asserts that the test leaves nothing: no process that runs and no zombie, descriptor,
// goroutine, socket or directory for sockets that was not there when NoLeaks was called. It looks at the test's end,
// after what was registered with t.Cleanup later. So it is called first.
//
// It is not for tests that run in parallel with others, and panics in them; see [Mark]. TestMain must call [Main].
func NoLeaks(t testing.TB) {
	t.Helper()
	t.Setenv(marksEnv, os.Getenv(marksEnv)) // panics in a parallel test, and lets this one not become parallel
	s := TakeSnapshot(t)
	t.Cleanup(func() {
		t.Helper()
		if left := s.Leaks(); len(left) > 0 {
			t.Errorf("spawntest: left behind:\n%s", indent(left))
		}
	})
}

// Snapshot is what there was at one moment.
type Snapshot struct {
	processes   processes
	descriptors descriptors
	files       map[string]bool
	goroutines  goleak.Option
}

// TakeSnapshot notes what there is, for a test that looks for leaks while it runs. TestMain must call [Main].
func TakeSnapshot(t testing.TB) *Snapshot {
	t.Helper()
	needMain(t)
	s, err := takeSnapshot()
	if err != nil {
		t.Fatalf("spawntest: %v", err)
	}
	return s
}

// startPoller makes the Go runtime open the descriptors that it keeps.
var startPoller = sync.OnceFunc(func() {
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
})

func takeSnapshot() (s *Snapshot, err error) {
	startPoller()
	s = &Snapshot{files: make(map[string]bool)}
	for _, f := range listFiles() {
		s.files[f] = true
	}
	if s.processes, err = listProcesses(); err != nil {
		return nil, err
	}
	if s.descriptors, err = listDescriptors(); err != nil {
		return nil, err
	}
	s.goroutines = goleak.IgnoreCurrent()
	return s, nil
}

// patience is how long what is just ending is waited for before it is called a leak. Tests set it.
var patience = 10 * time.Second

// Leaks returns what there is now and was not when the snapshot was taken, one thing or, for
// goroutines, all together in an element: a process with its id, state and command line, a descriptor with what it is
// open on, a file with its path, goroutines with their stacks. It waits for ten seconds at most for things that are just
// ending, and returns at once when there is nothing. It sees what other tests do that run in parallel.
func (s *Snapshot) Leaks() []string {
	deadline := time.Now().Add(patience)
	left := await(deadline, s.look)
	// Last, as the goroutines of what is just ending end with it. Find itself looks for about half a second.
	return append(left, await(deadline, s.lookAtGoroutines)...)
}

// look finds all but goroutines.
func (s *Snapshot) look() []string {
	left := s.processes.since()
	left = append(left, s.descriptors.since()...)
	for _, f := range listFiles() {
		if !s.files[f] {
			left = append(left, f)
		}
	}
	return left
}

func (s *Snapshot) lookAtGoroutines() []string {
	if err := goleak.Find(s.goroutines); err != nil {
		return []string{"goroutines: " + err.Error()}
	}
	return nil
}

// kill ends the processes that are left.
func (s *Snapshot) kill() { s.processes.killSince() }

// await looks until there is nothing, and at the deadline returns what there is.
func await(deadline time.Time, look func() []string) []string {
	for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
		left := look()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(pause)
	}
}
