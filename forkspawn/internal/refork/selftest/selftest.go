//go:build linux

// Package selftest finds out whether this machine, kernel, and build of a program can be trusted to fork without exec.
package selftest

import (
	"context"
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

	"github.com/spawnwire/spawnwire/forkspawn/internal/refork"
)

// Forks is how many children a Run has.
const Forks = 20

// Run forks a child to try it in, which forks Forks children one after the other beside a
// ticker and an allocator, each of which does a Workout and forks once more. It takes about half a second. Each of them
// collects, which is cheap only while the heap is small.
//
// A fork that goes wrong in an unforeseen way could harm the calling process too. Run it where that can be borne.
func Run(ctx context.Context, f *refork.Forker) error {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return fmt.Errorf("self-test: pipe: %w", err)
	}
	syscall.SetNonblock(p[0], true)
	r := os.NewFile(uintptr(p[0]), "self-test")
	defer r.Close()

	parent := os.Getpid()
	runtime.LockOSThread() // as the kernel tells of the end of the thread that forks
	defer runtime.UnlockOSThread()
	pid, _, err := f.Fork(refork.Options{Files: []refork.File{{From: p[1], To: p[1]}}})
	if err != nil {
		syscall.Close(p[1])
		return fmt.Errorf("self-test: %w", err)
	}
	if pid == 0 {
		syscall.Setpgid(0, 0)
		endWith(parent)
		text := "ok"
		if err := try(f); err != nil {
			text = err.Error()
		}
		syscall.Write(p[1], []byte(text))
		os.Exit(0)
	}
	syscall.Setpgid(pid, pid)
	syscall.Close(p[1])
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(r)
	syscall.Kill(-pid, syscall.SIGKILL)
	status, _ := Reap(pid)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("self-test: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("self-test: %w", err)
	case string(text) == "ok":
		return nil
	case len(text) == 0:
		return fmt.Errorf("self-test: the first child died: exit status %d, signal %d", status.ExitStatus(), status.Signal())
	}
	return &failure{string(text)}
}

// failure is an error of a child, from which nothing comes but words.
type failure struct{ said string }

func (f *failure) Error() string { return "self-test: " + f.said }

// Unwrap returns what was scarce, if that is what the words say: it tells nothing of the machine.
func (f *failure) Unwrap() error {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM} {
		if strings.Contains(f.said, errno.Error()) {
			return errno
		}
	}
	return nil
}

// endWith has the kernel kill this process, which was forked a moment ago, when its parent dies (PR_SET_PDEATHSIG in prctl(2)).
func endWith(parent int) {
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
	if os.Getppid() != parent {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
}

// try is Run's work, in its child.
func try(f *refork.Forker) error {
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
		o := Fork(f, 1, 10*time.Second) // it takes 20 ms
		if o.Failure != "" {
			return fmt.Errorf("child %d of %d: %s: %s", i+1, Forks, o.Failure, o.Detail)
		}
		seen = append(seen, o.Draws...)
	}
	close(quit)
	<-ended
	slices.Sort(seen)
	if n := len(seen) - len(slices.Compact(seen)); n > 0 {
		return fmt.Errorf("%d random numbers of %d were drawn twice", n, len(seen))
	}
	return conn.Check()
}
