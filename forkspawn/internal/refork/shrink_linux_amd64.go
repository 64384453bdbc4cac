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
	"unsafe"

	"golang.org/x/sys/unix"
)

// Collapsed is what a Collapse did.
type Collapsed struct {
	Bytes   uint64 // in huge pages now
	Skipped uint64 // in pieces of 2 MiB that were left alone, most of them as they hold little
	Took    time.Duration
}

// worthCollapse is how much of a piece must be in memory for it to be worth a huge page. The first write to such a page after a
// fork splits it, and then all of its pages are there: of one that was mostly empty forks would copy more than before.
const worthCollapse = hugePage / 4 * 3

// Collapse makes forks cheap, once the heap is what it shall be: it collects, gives free memory back, and has the
// kernel put what is left into huge pages, where it fills them (MADV_COLLAPSE in madvise(2), since Linux 6.1): a fork
// copies the page tables, 8 bytes for each page of 4 KiB or of 2 MiB. The error is errors.ErrUnsupported on older kernels; memory is
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
	pagemap, _ := os.Open("/proc/self/pagemap")
	defer pagemap.Close()
	for _, m := range list {
		// Shared memory is not copied at a fork, and the stack and the kernel's own are small.
		if !m.writable || !m.private || m.name != "" && !strings.HasPrefix(m.name, "[anon:") && m.name != "[heap]" {
			continue
		}
		from := (m.from + hugePage - 1) &^ (hugePage - 1)
		for ; from+hugePage <= m.to; from += hugePage {
			filled := uintptr(0)
			for _, part := range resident(pagemap, segment{from, from + hugePage}) {
				filled += part.to - part.from
			}
			if filled < worthCollapse {
				c.Skipped += hugePage
				continue
			}
			_, _, e := syscall.RawSyscall(syscall.SYS_MADVISE, from, hugePage, unix.MADV_COLLAPSE)
			switch e {
			case 0:
				c.Bytes += hugePage
			case syscall.EINVAL, syscall.EAGAIN, syscall.EBUSY, syscall.ENOMEM:
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
	n := threads()
	for range 4 {
		var ready, done sync.WaitGroup
		release := make(chan struct{})
		ready.Add(n)
		for range n {
			done.Go(func() {
				runtime.LockOSThread()
				ready.Done()
				<-release // each has a thread of its own
				keepFirstThread()
			})
		}
		ready.Wait()
		close(release)
		done.Wait()
		left := settledThreads()
		if left >= n {
			break
		}
		n = left
	}
	// The caller's own thread is one too many if it is not the process's first, which stays.
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		keepFirstThread()
		close(done)
	}()
	<-done
	return settledThreads()
}

// keepFirstThread unlocks a goroutine that is about to end from the process's first thread.
func keepFirstThread() {
	if syscall.Gettid() == os.Getpid() {
		runtime.UnlockOSThread()
	}
}

// settledThreads counts the threads when that has stopped to change: they end a moment after their goroutines.
func settledThreads() int {
	n := threads()
	for range 20 {
		time.Sleep(100 * time.Microsecond)
		now := threads()
		if now == n {
			break
		}
		n = now
	}
	return n
}

// threads is the kernel's count, which the links of /proc/self/task are two more than. A system call that the runtime knows of, and
// that takes its time, would have it start one.
func threads() int {
	path := [...]byte{15: 0}
	copy(path[:], "/proc/self/task")
	var st syscall.Stat_t
	if _, _, e := syscall.RawSyscall(syscall.SYS_STAT, uintptr(unsafe.Pointer(&path)), uintptr(unsafe.Pointer(&st)), 0); e != 0 {
		return 0
	}
	return int(st.Nlink) - 2
}
