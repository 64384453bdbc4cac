//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

func init() {
	scenarios["cpu-profile"] = cpuProfile
	scenarios["trace"] = execTrace
	scenarios["blocked-signal"] = blockedSignal
	scenarios["timer"] = timer
	scenarios["foreign-handler"] = foreignHandler
	scenarios["foreign-thread"] = foreignThread
	scenarios["leader-ended"] = leaderEnded
}

// refused expects a refused fork with a text, and with a remedy unless that is
// "".
func refused(f *refork.Forker, want, remedy string) error {
	start := time.Now()
	pid, _, err := f.Fork(refork.Options{})
	var r *refork.Refused
	switch {
	case err == nil && pid == 0:
		os.Exit(0)
	case err == nil:
		wait(pid)
		return fmt.Errorf("forked, in place of %q", want)
	case !errors.As(err, &r) || !strings.Contains(r.Error(), want) ||
		!strings.Contains(r.Remedy, remedy):
		return fmt.Errorf("%v in place of %q, %q", err, want, remedy)
	case time.Since(start) > time.Minute:
		return fmt.Errorf("refused after %v", time.Since(start))
	}
	return nil
}

// healthy expects that forks work in an undamaged process.
func healthy(f *refork.Forker) error {
	if _, err := selftest.Workout(f, 1); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return nil
}

func cpuProfile(f *refork.Forker) error {
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		return err
	}
	for range 3 {
		if err := refused(f, "a CPU profile is running", "StopCPUProfile"); err != nil {
			return err
		}
	}
	// Every thread with Go code gets a timer meanwhile.
	work := make(chan int)
	for range 4 {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for i := range 1000 {
				work <- i
			}
		}()
	}
	for range 4000 {
		<-work
	}
	idle := make(chan bool)
	held := make(chan bool)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		held <- true
		<-idle // keeps its thread, and so the timer of the thread
	}()
	<-held
	pprof.StopCPUProfile()
	if err := refused(f, "POSIX timer", "runtime.Gosched"); err != nil {
		return err
	}
	close(idle)
	return healthy(f)
}

func execTrace(f *refork.Forker) error {
	if err := trace.Start(io.Discard); err != nil {
		return err
	}
	if err := refused(f, "an execution trace is running", "trace.Stop"); err != nil {
		return err
	}
	trace.Stop()
	recorder := trace.NewFlightRecorder(trace.FlightRecorderConfig{})
	if err := recorder.Start(); err != nil {
		return err
	}
	if err := refused(f, "an execution trace is running", "trace.Stop"); err != nil {
		return err
	}
	recorder.Stop()
	return healthy(f)
}

// blockedSignal has a thread block the freeze signal.
func blockedSignal(f *refork.Forker) error {
	tid := make(chan int)
	release := make(chan bool)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		set := unix.Sigset_t{Val: [16]uint64{1 << 33}}
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
			panic(err)
		}
		tid <- syscall.Gettid()
		<-release
		if err := unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil); err != nil {
			panic(err)
		}
		tid <- 0
	}()
	want := fmt.Sprintf("thread %d blocks signal 34", <-tid)
	for range 2 {
		if err := refused(f, want, "unblock it"); err != nil {
			return err
		}
	}
	release <- true
	<-tid
	return healthy(f)
}

// timer makes a POSIX timer outside the runtime.
func timer(f *refork.Forker) error {
	event := [16]uint32{3: 1} // SIGEV_NONE
	for range 3 {
		var id uint32
		_, _, e := syscall.Syscall(syscall.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC,
			uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id)))
		if e != 0 {
			return e
		}
		if err := refused(f, fmt.Sprintf("POSIX timer %d exists", id), ""); err != nil {
			return err
		}
		syscall.Syscall(syscall.SYS_TIMER_DELETE, uintptr(id), 0, 0)
		if err := healthy(f); err != nil {
			return err
		}
	}
	return nil
}

// foreignHandler sets another handler for the signal.
func foreignHandler(f *refork.Forker) error {
	var old [4]uint64
	if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, 34, 0,
		uintptr(unsafe.Pointer(&old)), 8, 0, 0); e != 0 {
		return e
	}
	other := old
	other[0] += 4096 // never called
	if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, 34,
		uintptr(unsafe.Pointer(&other)), 0, 8, 0, 0); e != 0 {
		return e
	}
	if err := refused(f, "signal 34 has a handler already", "leave that signal"); err != nil {
		return err
	}
	// the possible states after an exec: SIG_DFL, SIG_IGN
	for _, action := range [][4]uint64{{}, {0: 1}} {
		if _, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, 34,
			uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0); e != 0 {
			return e
		}
		if err := healthy(f); err != nil {
			return err
		}
	}
	return nil
}

// foreignThread starts a thread unknown to the Go runtime, with its creator's
// FS base.
func foreignThread(f *refork.Forker) error {
	stack, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	tid, gone := foreign(uintptr(unsafe.Pointer(&stack[len(stack)-64])))
	if err := refused(f, fmt.Sprintf("thread %d is not one of the Go runtime", tid),
		"start no threads"); err != nil {
		return err
	}
	gone()
	return healthy(f)
}

// leaderEnded ends the first thread of a child. Then nothing can freeze the
// child.
func leaderEnded(f *refork.Forker) error {
	results := make(chan error)
	forkAndEnd := func() {
		pid, _, err := f.Fork(refork.Options{})
		switch {
		case err != nil:
			results <- err
		case pid != 0:
			results <- exitStatus(pid, 42)
		default:
			go func() {
				for !strings.Contains(
					string(first(os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status",
						os.Getpid())))), "zombie") {
					time.Sleep(time.Millisecond)
				}
				if err := refused(f, "the process's first thread has ended",
					"no goroutine may end"); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				os.Exit(42)
			}()
			// a second lock, so that it ends locked to the first thread of the child
			runtime.LockOSThread()
			runtime.Goexit()
		}
	}
	// The runtime never ends its first thread, m0. So two goroutines hold two
	// threads, and the one without m0 forks.
	type held struct {
		first bool
		goOn  chan bool
	}
	threads := make(chan held)
	for range 2 {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			h := held{syscall.Gettid() == os.Getpid(), make(chan bool)}
			threads <- h
			if <-h.goOn {
				forkAndEnd()
			}
		}()
	}
	one, other := <-threads, <-threads
	if one.first {
		one, other = other, one
	}
	one.goOn <- true
	err := <-results
	other.goOn <- false
	if err != nil {
		return err
	}
	return healthy(f)
}

func first(b []byte, _ error) []byte { return b }

func exitStatus(pid, want int) error {
	if status := wait(pid); status.ExitStatus() != want {
		return fmt.Errorf("exit status %d, signal %d", status.ExitStatus(), status.Signal())
	}
	return nil
}
