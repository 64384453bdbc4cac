package spawntest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/unixsock"
)

// NoLeaks makes the test fail if it leaves something behind. At the end of the
// test it looks for processes, zombies, descriptors, goroutines, sockets and
// directories for sockets. They count if they did not exist when NoLeaks was
// called.
//
// The check runs after all cleanups registered later, so call NoLeaks first. It
// panics in a parallel test: call it in the test around the parallel ones.
// TestMain must call [Main].
func NoLeaks(t testing.TB) {
	t.Helper()
	noLeaks(t, func() {})
}

// NoLeaksAfterKill is NoLeaks for a test that kills a process with a Spawner. Such a
// process leaves its directory for sockets, which the next Spawner removes after a
// minute. NoLeaksAfterKill removes it at the end of the test.
func NoLeaksAfterKill(t testing.TB) {
	t.Helper()
	noLeaks(t, func() { unixsock.Sweep(tempDir) })
}

// noLeaks is NoLeaks. It calls sweep before it looks.
func noLeaks(t testing.TB, sweep func()) {
	t.Helper()
	// Setenv panics in a parallel test, and makes a later t.Parallel panic.
	t.Setenv(marksEnv, os.Getenv(marksEnv))
	s := TakeSnapshot(t)
	t.Cleanup(func() {
		t.Helper()
		sweep()
		if left := s.Leaks(); len(left) > 0 {
			t.Errorf("spawntest: left behind:\n%s", indent(left))
		}
	})
}

// Snapshot lists the processes, descriptors and so on of one moment.
type Snapshot struct {
	things     things
	goroutines goleak.Option
}

// TakeSnapshot returns a Snapshot of this moment. A test can use it to look for
// leaks before its end. TestMain must call [Main].
func TakeSnapshot(t testing.TB) *Snapshot {
	t.Helper()
	needMain(t)
	s, err := takeSnapshot()
	if err != nil {
		t.Fatalf("spawntest: %v", err)
	}
	return s
}

// startPoller makes the Go runtime open the descriptors of its poller. The
// runtime never closes them, so they would look like a leak of a test.
var startPoller = sync.OnceFunc(func() {
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
})

func takeSnapshot() (*Snapshot, error) {
	startPoller()
	all, err := listThings()
	return &Snapshot{all, goleak.IgnoreCurrent()}, err
}

// patience is how long Leaks waits for something to end. Tests of this package
// change it.
var patience = 10 * time.Second

// Leaks describes each thing that has appeared since the snapshot was taken. The
// text has the id, state and command line of a process, the file of a
// descriptor, or the path of a socket or directory. All goroutines, with their
// stacks, are one element of the list.
//
// Leaks returns as soon as nothing is left, and after ten seconds at the latest.
// It also sees the processes and goroutines of tests that run in parallel.
func (s *Snapshot) Leaks() (left []string) {
	deadline := time.Now().Add(patience)
	poll(deadline, func() bool {
		left = s.describeNew()
		return len(left) == 0
	})
	// Goroutines are last, because many wait for a process or a descriptor.
	// If there are any, goleak itself polls for about half a second.
	var err error
	poll(deadline, func() bool {
		err = goleak.Find(s.goroutines)
		return err == nil
	})
	if err != nil {
		left = append(left, "goroutines: "+err.Error())
	}
	return left
}

func (s *Snapshot) describeNew() (list []string) {
	appeared, err := s.appeared()
	if err != nil {
		list = append(list, err.Error()) // such as too many open files
	}
	for _, t := range appeared {
		list = append(list, t.String())
	}
	return list
}

// appeared returns the new things of this test binary.
func (s *Snapshot) appeared() (list []thing, err error) {
	now, err := listThings()
	for key, t := range now {
		if _, ok := s.things[key]; !ok && t.ours() {
			list = append(list, t)
		}
	}
	return list, err
}

// thing is a process, a descriptor or a file.
type thing interface {
	ours() bool // reports whether this test binary can have made it
	String() string
}

// things are all things of one moment. Each has the same key for all its life.
type things map[any]thing

func listThings() (things, error) {
	all := make(things)
	all.addFiles()
	return all, errors.Join(all.addProcesses(), all.addDescriptors())
}

// file is "socket" or "directory" and the path.
type file string

func (file) ours() bool       { return true }
func (f file) String() string { return string(f) }

// addFiles adds the sockets in the temporary directory, and the directories of
// package transport/uds.
func (all things) addFiles() {
	filepath.WalkDir(tempDir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil: // it has just been removed
		case e.Type() == fs.ModeSocket:
			all[path] = file("socket " + path)
		case e.IsDir() && strings.HasPrefix(e.Name(), "spawnwire-"):
			all[path] = file("directory " + path)
		}
		return nil
	})
}
