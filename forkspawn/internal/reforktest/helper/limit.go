//go:build linux && (amd64 || arm64)

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

func init() {
	scenarios["thread-limit"] = threadLimit
}

// threadLimit leaves no room for the child, and then none for its threads. Root
// has no such limit, so the process changes to a user without other processes.
// For a user other than root the test does nothing, because the user has too
// many.
func threadLimit(f *refork.Forker) error {
	if os.Getuid() != 0 {
		return nil
	}
	user := 20_000 + os.Getpid()%40_000
	if err := syscall.Setgid(user); err != nil {
		return err
	}
	if err := syscall.Setuid(user); err != nil {
		return err
	}
	// These idle threads are enough for the runtime here for a while.
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { unix.Nanosleep(&unix.Timespec{Nsec: 1e7}, nil) })
	}
	wg.Wait()
	time.Sleep(10 * time.Millisecond)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(6 /* RLIMIT_NPROC */, &before); err != nil {
		return err
	}
	limit := func(n int) error {
		return syscall.Setrlimit(6, &syscall.Rlimit{Cur: uint64(n), Max: before.Max})
	}

	if err := limit(len(tasks)); err != nil {
		return err
	}
	if err := refused(f, "clone: resource temporarily unavailable", "RLIMIT_NPROC"); err != nil {
		return err
	}
	if err := noRoomForRequest(f); err != nil {
		return err
	}

	if err := limit(len(tasks) + 2); err != nil { // for the child's first thread and few others
		return err
	}
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return err
	}
	pid, _, err := f.Fork(refork.Options{Stdio: [3]int{2: p[1]}})
	if err != nil {
		return err
	}
	if pid == 0 {
		time.Sleep(10 * time.Second)
		os.Exit(0)
	}
	syscall.Close(p[1])
	if err := exitStatus(pid, refork.RebuildFailed); err != nil {
		return err
	}
	said, err := io.ReadAll(os.NewFile(uintptr(p[0]), ""))
	if err != nil ||
		!strings.Contains(string(said), "the child could not be rebuilt: errno 11 in clone of ") {
		return fmt.Errorf("stderr %q, %v", said, err)
	}

	if err := syscall.Setrlimit(6, &before); err != nil {
		return err
	}
	return healthy(f)
}

// noRoomForRequest gets the same error for a request as for any other fork, and
// the request itself for its answer.
func noRoomForRequest(f *refork.Forker) error {
	pair, err := socketPair()
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	r := requestOn(pair[0])
	report := refork.Report{Socket: pair[0], Message: make([]byte, 4)}
	open := openFiles()
	for range 3 {
		if err := asked(pair[1], "in vain"); err != nil {
			return err
		}
		pid, pidfd, err := forkAsked(f, refork.Options{Request: &r, Report: &report, Pidfd: true})
		if err == nil && pid == 0 {
			os.Exit(0)
		}
		var refused *refork.Refused
		if !errors.As(err, &refused) || !errors.Is(err, syscall.EAGAIN) ||
			report.Sent || pidfd != -1 {
			return fmt.Errorf("a request for which there is no process: %v, reported: %t, pidfd %d",
				err, report.Sent, pidfd)
		}
		if n := closeReceived(&r); n != 4 || string(r.Room[4:r.Size]) != "in vain" {
			return fmt.Errorf("%d descriptors of it, and %q", n, r.Room[:r.Size])
		}
	}
	if now := openFiles(); now != open {
		return fmt.Errorf("%d descriptors before and %d after", open, now)
	}
	return nil
}
