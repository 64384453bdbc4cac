package refork

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Collapsed is what a Collapse did.
type Collapsed struct {
	Bytes   uint64 // in huge pages now
	Skipped uint64 // in pieces of 2 MiB that were left alone, most of them as they hold nothing
	Took    time.Duration
}

const hugePage = 2 << 20

// Collapse makes forks cheap, once the heap is what it shall be: it collects, gives free memory back, and has the
// kernel put what is left into huge pages (MADV_COLLAPSE in madvise(2), since Linux 6.1), as a fork copies the page
// tables, 8 bytes for each page of 4 KiB or of 2 MiB. The error is errors.ErrUnsupported on older kernels; memory is
// given back all the same. All of the memory is copied once, which takes seconds for a GiB on a slow machine.
func Collapse() (Collapsed, error) {
	start := time.Now()
	runtime.GC()
	debug.FreeOSMemory()
	var c Collapsed
	list, err := mappings()
	if err != nil {
		return c, err
	}
	for _, m := range list {
		// Shared memory is not copied at a fork, and the stack and the kernel's own are small.
		if !m.writable || !m.private || m.name != "" && !strings.HasPrefix(m.name, "[anon:") && m.name != "[heap]" {
			continue
		}
		from := (m.from + hugePage - 1) &^ (hugePage - 1)
		for ; from+hugePage <= m.to; from += hugePage {
			_, _, e := syscall.Syscall(syscall.SYS_MADVISE, from, hugePage, unix.MADV_COLLAPSE)
			switch e {
			case 0:
				c.Bytes += hugePage
			case syscall.EINVAL, syscall.EAGAIN, syscall.EBUSY, syscall.ENOMEM:
				// EINVAL is also that there is nothing in it.
				c.Skipped += hugePage
			default:
				return c, fmt.Errorf("madvise(MADV_COLLAPSE): %w", e)
			}
		}
	}
	c.Took = time.Since(start)
	if c.Bytes == 0 && !canCollapse() {
		return c, fmt.Errorf("madvise(MADV_COLLAPSE): %w", errors.ErrUnsupported)
	}
	return c, nil
}

// canCollapse tries it on memory that is certainly there.
func canCollapse() bool {
	mem, err := unix.Mmap(-1, 0, 2*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return false
	}
	defer unix.Munmap(mem)
	clear(mem)
	return unix.Madvise(mem, unix.MADV_COLLAPSE) == nil || unix.Madvise(mem[:hugePage], unix.MADV_COLLAPSE) == nil
}

// ShedThreads ends threads that the runtime keeps for later, as each is to be frozen and rebuilt, and returns how many
// there are then. The runtime never ends an idle thread, but it does end one whose goroutine ends locked to
// it. So as many such goroutines as there are threads take them all. With GOMAXPROCS 1 fewer are left. It also has
// threads delete the timers of a CPU profile that was stopped.
func ShedThreads() int {
	count := func() int {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return 0
		}
		return len(tasks)
	}
	n := count()
	for range 4 {
		var ready, done sync.WaitGroup
		release := make(chan struct{})
		ready.Add(n)
		for range n {
			done.Go(func() {
				runtime.LockOSThread()
				ready.Done()
				<-release // each has a thread of its own
				if syscall.Gettid() == os.Getpid() {
					runtime.UnlockOSThread() // the process's first thread stays
				}
			})
		}
		ready.Wait()
		close(release)
		done.Wait()
		// They end a moment after their goroutines.
		left := count()
		for range 20 {
			time.Sleep(100 * time.Microsecond)
			now := count()
			if now == left {
				break
			}
			left = now
		}
		if left >= n {
			return left
		}
		n = left
	}
	return n
}
