//go:build linux && (amd64 || arm64)

package main

import (
	crand "crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

func init() {
	scenarios["workout"] = workout
	scenarios["nested"] = nested
	scenarios["random"] = random
	scenarios["random-all-the-time"] = randomAllTheTime
	scenarios["crash"] = crash
	scenarios["many-threads"] = manyThreads
	scenarios["all-threads"] = allThreads
	scenarios["at-once"] = atOnce
	scenarios["naive"] = naive
	scenarios["shrink"] = shrink
}

func workout(f *refork.Forker) error {
	for range 10 {
		if o := selftest.Fork(f, 0, 0); o.Failure != "" {
			return fmt.Errorf("%s: %s", o.Failure, o.Detail)
		}
	}
	return nil
}

func nested(f *refork.Forker) error {
	o := selftest.Fork(f, 3, 0)
	if o.Failure != "" {
		return fmt.Errorf("%s: %s", o.Failure, o.Detail)
	}
	return nil
}

// randomAllTheTime forks while other threads draw numbers without a pause, so that
// some are stopped while they make new ones.
func randomAllTheTime(f *refork.Forker) error {
	var stop atomic.Bool
	var drawing sync.WaitGroup
	defer drawing.Wait()
	defer stop.Store(true)
	for range 2 {
		drawing.Go(func() {
			for !stop.Load() {
				rand.Uint64()
			}
		})
	}
	for range 400 {
		pid, _, err := f.Fork(refork.Options{})
		if err != nil {
			return err
		}
		if pid == 0 {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		if status := wait(pid); status != 0 {
			return fmt.Errorf("child: exit status %d, signal %d",
				status.ExitStatus(), status.Signal())
		}
	}
	return nil
}

// random draws numbers on several threads at once, in parent and children.
func random(f *refork.Forker) error {
	seed := maphash.MakeSeed()
	draw := func() []uint64 {
		var mu sync.Mutex
		var all []uint64
		var wg, ready sync.WaitGroup
		release := make(chan struct{})
		ready.Add(6)
		for range 6 {
			wg.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				ready.Done()
				<-release // so that there are six threads, some of them new
				mu.Lock()
				defer mu.Unlock()
				for range 50 { // more than one block
					all = append(all, rand.Uint64())
				}
			})
		}
		ready.Wait()
		close(release)
		wg.Wait()
		var b [8]byte
		crand.Read(b[:])
		return append(all, maphash.String(maphash.MakeSeed(), "x"),
			binary.NativeEndian.Uint64(b[:]))
	}
	seen := draw()
	old := maphash.String(seed, "x")
	for range 5 {
		said, _, err := fork(f, refork.Options{}, func() string {
			// A seed from before the fork is the parent's.
			words := []string{strconv.FormatUint(maphash.String(seed, "x"), 16)}
			for _, x := range draw() {
				words = append(words, strconv.FormatUint(x, 16))
			}
			return strings.Join(words, " ")
		})
		if err != nil {
			return err
		}
		for i, word := range strings.Fields(said) {
			x, err := strconv.ParseUint(word, 16, 64)
			switch {
			case err != nil:
				return err
			case i > 0:
				seen = append(seen, x)
			case x != old:
				return fmt.Errorf("a hash seed has changed")
			}
		}
		seen = append(seen, draw()...)
	}
	n := len(seen)
	slices.Sort(seen)
	if twice := n - len(slices.Compact(seen)); twice > 0 || n != 11*302 {
		return fmt.Errorf("%d of %d random numbers were drawn twice", twice, n)
	}
	return nil
}

// crash has children end in all ways, and forks again.
func crash(f *refork.Forker) error {
	conn, err := selftest.Echo()
	if err != nil {
		return err
	}
	null, err := syscall.Open("/dev/null", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	quiet := refork.Options{Stdio: [3]int{2: null}}
	for range 5 {
		for _, c := range []struct {
			what   string
			end    func()
			exit   int
			signal syscall.Signal
		}{
			{"exit 7", func() { os.Exit(7) }, 7, -1},
			{"panic", func() { panic("on purpose") }, 2, -1},
			{"panic elsewhere", func() { go panic("on purpose"); select {} }, 2, -1},
			{"stray pointer", func() { var p *int; *p = 1 }, 2, -1},
			{"SIGTERM", func() {
				syscall.Kill(os.Getpid(), syscall.SIGTERM)
				select {}
			}, -1, syscall.SIGTERM},
			{"SIGKILL", func() {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}, -1, syscall.SIGKILL},
		} {
			_, status, err := fork(f, quiet, func() string { c.end(); return "" })
			if err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
			if status.ExitStatus() != c.exit || status.Signaled() && status.Signal() != c.signal {
				return fmt.Errorf("%s: exit status %d, signal %d", c.what,
					status.ExitStatus(), status.Signal())
			}
			if err := conn.Check(); err != nil {
				return fmt.Errorf("%s: the template's own socket: %w", c.what, err)
			}
			runtime.GC()
		}
	}
	return nil
}

// manyThreads forks a process with hundreds of threads, blocked in system calls
// and idle.
func manyThreads(f *refork.Forker) error {
	const n = 150
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		return err
	}
	var parked, ended sync.WaitGroup
	release := make(chan struct{})
	parked.Add(n)
	var reading sync.WaitGroup
	for range n {
		ended.Go(func() {
			runtime.LockOSThread()
			parked.Done()
			<-release
		})
		reading.Go(func() {
			var b [1]byte
			for {
				if _, err := syscall.Read(p[0], b[:]); err != syscall.EINTR {
					return
				}
			}
		})
	}
	parked.Wait()
	time.Sleep(50 * time.Millisecond) // for the reads to block; no harm if they do not yet
	for range 5 {
		if o := selftest.Fork(f, 1, 0); o.Failure != "" {
			return fmt.Errorf("%s: %s", o.Failure, o.Detail)
		}
		err := well(f, refork.Options{}, func() string {
			close(release)
			ended.Wait()
			reading.Wait() // a blocked read of a parent's descriptor is made again, and returns EOF
			return ""
		})
		if err != nil {
			return err
		}
	}
	if threads := f.Stats().Threads; threads < 2*n {
		return fmt.Errorf("%d threads", threads)
	}
	syscall.Close(p[1])
	reading.Wait()
	close(release)
	ended.Wait()
	return nil
}

// allThreads makes a system call on every thread of the child. The runtime must
// know the right id of each.
func allThreads(f *refork.Forker) error {
	for range 10 {
		err := well(f, refork.Options{}, func() string {
			const prGetDumpable = 3
			if _, _, e := syscall.AllThreadsSyscall(syscall.SYS_PRCTL,
				prGetDumpable, 0, 0); e != 0 {
				return e.Error()
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// atOnce has children do things that concern all their threads, while these are
// still being started.
func atOnce(f *refork.Forker) error {
	for _, c := range []struct {
		what string
		do   func()
		exit int
	}{
		{"exit", func() { syscall.Exit(3) }, 3},
		{"execute", func() { syscall.Exec("/bin/sh", []string{"sh", "-c", "exit 4"}, nil) }, 4},
		{"collect", func() { runtime.GC(); os.Exit(5) }, 5},
		{"system call on all threads", func() {
			if _, _, e := syscall.AllThreadsSyscall(syscall.SYS_PRCTL,
				3 /* PR_GET_DUMPABLE */, 0, 0); e == 0 {
				os.Exit(6)
			}
		}, 6},
		{"fork", func() {
			pid, _, err := f.Fork(refork.Options{})
			switch {
			case err != nil:
				fmt.Fprintln(os.Stderr, err)
			case pid == 0:
				os.Exit(0)
			case exitStatus(pid, 0) == nil:
				os.Exit(7)
			}
		}, 7},
		{"many threads", func() {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil) })
			}
			wg.Wait()
			os.Exit(8)
		}, 8},
	} {
		for range 30 {
			pid, _, err := f.Fork(refork.Options{})
			if err != nil {
				return err
			}
			if pid == 0 {
				c.do()
				os.Exit(1)
			}
			if err := exitStatus(pid, c.exit); err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
		}
	}
	return nil
}

// naive forks by fork(2). The child has only the forking thread. The collector
// waits for the others, and so does every goroutine that another thread should
// run.
func naive(*refork.Forker) error {
	stuck := 0
	const children = 5
	for range children {
		pid, _, e := syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
		if e != 0 {
			return e
		}
		if pid == 0 {
			for range 10 {
				runtime.GC()
			}
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		// A collection takes a millisecond. The child has a second.
		var status syscall.WaitStatus
		for range 100 {
			if got, err := syscall.Wait4(int(pid), &status, syscall.WNOHANG, nil); got != 0 ||
				err != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got, _ := syscall.Wait4(int(pid), &status, syscall.WNOHANG, nil); got == 0 &&
			status == 0 {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
				stuck++
			}
		}
		syscall.Kill(int(pid), syscall.SIGKILL)
		syscall.Wait4(int(pid), &status, 0, nil)
	}
	if stuck < children {
		return fmt.Errorf("%d of %d children of a plain fork were stuck in a collection", stuck,
			children)
	}
	return nil
}

// shrink forks a process with fewer threads, and with huge pages.
func shrink(f *refork.Forker) error {
	table := make([]byte, 64<<20)
	for i := range table {
		table[i] = byte(i)
	}
	// Threads without further use.
	var held, wg sync.WaitGroup
	release := make(chan bool)
	held.Add(20)
	for range 20 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			held.Done()
			<-release
		})
	}
	held.Wait()
	close(release)
	wg.Wait()
	before, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	if left := refork.ShedThreads(); len(before) < 20 || left > 12 {
		return fmt.Errorf("%d threads before, %d after", len(before), left)
	}
	collapsed, err := refork.Collapse()
	if err != nil || collapsed > 0 && collapsed < 60<<20 { // an old kernel collapses nothing
		return fmt.Errorf("%d bytes of a table of %d were collapsed, %v",
			collapsed, len(table), err)
	}
	for range 5 {
		err := well(f, refork.Options{}, func() string {
			for i, b := range table {
				if b != byte(i) {
					return "the table has changed"
				}
			}
			return ""
		})
		if err != nil {
			return err
		}
		if o := selftest.Fork(f, 1, 0); o.Failure != "" {
			return fmt.Errorf("%s: %s", o.Failure, o.Detail)
		}
	}
	return nil
}
