//go:build linux

// Package selftest tests whether this machine, kernel and build of a program
// can fork without exec.
package selftest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

// Forks is the number of children of a Run.
const Forks = 20

// Run forks a child for the test. This child runs a ticker and an allocator,
// and forks Forks children, one after the other. Each of them does a Workout,
// and forks once more. Run takes about half a second of CPU time. All of them
// collect garbage, so the heap should be small.
//
// A slow machine takes longer, so only a test without progress is given up. Then
// the error matches [ErrStalled], or [refork.ErrSlow] if threads did not stop in
// time. Neither says anything about the machine's ability to fork.
//
// An unforeseen failure of a fork could harm the calling process too.
func Run(f *refork.Forker) error {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return fmt.Errorf("self-test: pipe: %w", err)
	}
	syscall.SetNonblock(p[0], true)
	r := os.NewFile(uintptr(p[0]), "self-test")
	defer r.Close()

	parent := os.Getpid()
	// the kernel sends the parent-death signal at the end of the forking thread
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, _, err := f.Fork(refork.Options{Keep: []int{p[1]}})
	if err != nil {
		syscall.Close(p[1])
		return fmt.Errorf("self-test: %w", err)
	}
	if pid == 0 {
		syscall.Setpgid(0, 0)
		endWith(parent)
		text := "ok"
		if err := try(f, func() { syscall.Write(p[1], []byte{progress}) }); err != nil {
			text = err.Error()
		}
		syscall.Write(p[1], []byte(text))
		syscall.Exit(0)
	}
	syscall.Setpgid(pid, pid)
	syscall.Close(p[1])
	text, err := await(r)
	syscall.Kill(-pid, syscall.SIGKILL)
	status, _ := Reap(pid)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("self-test: %w", ErrStalled)
	case err != nil:
		return fmt.Errorf("self-test: %w", err)
	case text == "ok":
		return nil
	case text == "":
		return fmt.Errorf("self-test: the first child died: exit status %d, signal %d",
			status.ExitStatus(), status.Signal())
	}
	return &failure{text}
}

// stall is how long the test may make no progress. Usually it does every 25 ms, and on
// an emulated machine whose host is busy every ten seconds.
const stall = 2 * time.Minute

// ErrStalled is the cause when a test made no progress for a time.
var ErrStalled = fmt.Errorf("no progress for %v: the machine is too slow, or a fork hangs", stall)

// progress is what the child of Run writes after each of its children.
const progress = '.'

// await returns what the child writes at last. Progress extends the wait.
func await(r *os.File) (text string, err error) {
	var all []byte
	buf := make([]byte, 4096)
	for err == nil {
		var n int
		r.SetReadDeadline(time.Now().Add(stall))
		n, err = r.Read(buf)
		all = append(all, buf[:n]...)
	}
	if err == io.EOF {
		err = nil
	}
	return strings.TrimLeft(string(all), string(progress)), err
}

// failure is an error of a child, of which only the text is known.
type failure struct{ said string }

func (f *failure) Error() string { return "self-test: " + f.said }

// Unwrap returns ErrStalled if a child has hung, refork.ErrSlow if threads were late,
// and the error of the system if the text names a scarce resource. None of them says
// that the machine cannot fork.
func (f *failure) Unwrap() error {
	if strings.Contains(f.said, ": "+hangs+": ") {
		return ErrStalled
	}
	for _, err := range []error{refork.ErrSlow, syscall.EMFILE, syscall.ENFILE,
		syscall.EAGAIN, syscall.ENOMEM} {
		if strings.Contains(f.said, err.Error()) {
			return err
		}
	}
	return nil
}

// endWith has the kernel kill this process when its parent dies
// (PR_SET_PDEATHSIG in prctl(2)).
func endWith(parent int) {
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
	if os.Getppid() != parent {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
}

// try runs in the child of Run.
func try(f *refork.Forker, progressed func()) error {
	conn, err := Echo()
	if err != nil {
		return err
	}
	defer conn.Close()
	ticker := time.NewTicker(100 * time.Microsecond)
	defer ticker.Stop()
	quit := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var garbage [][]byte
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				garbage = append(garbage[:len(garbage)%100], make([]byte, 1000))
			}
		}
	}()
	var seen []uint64
	for i := range Forks {
		seen = append(seen, rand.Uint64(), rand.Uint64())
		o := Fork(f, 1, stall*2/3) // it takes 20 ms
		if o.Failure != "" {
			return fmt.Errorf("child %d of %d: %s: %s", i+1, Forks, o.Failure, o.Detail)
		}
		seen = append(seen, o.Draws...)
		progressed()
	}
	close(quit)
	<-ended
	slices.Sort(seen)
	if n := len(seen) - len(slices.Compact(seen)); n > 0 {
		return fmt.Errorf("%d random numbers of %d were drawn twice", n, len(seen))
	}
	return conn.Check()
}
