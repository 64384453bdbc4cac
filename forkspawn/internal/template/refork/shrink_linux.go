//go:build amd64 || arm64

package refork

import (
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

// worthCollapse is how much of a piece must be in memory to be worth a huge
// page. The first write after a fork splits a huge page, and all of its small
// pages are in memory then. If few of them were before, forks would have more
// to copy.
var worthCollapse = hugePage / 4 * 3

// Collapse makes forks cheap, and should be called when the heap is complete.
// It collects garbage, returns free memory to the kernel, and makes huge pages
// of the rest where it fills them (MADV_COLLAPSE in madvise(2), since Linux
// 6.1). A fork copies page tables, with 8 bytes for a page of 4 KiB or of
// 2 MiB. Collapse copies all memory once, which takes seconds for a GiB on a
// slow machine. It returns the number of bytes in huge pages, which is 0 on
// older kernels.
func Collapse() (collapsed uint64, err error) {
	runtime.GC()
	debug.FreeOSMemory()
	list, err := mappings()
	if err != nil {
		return 0, err
	}
	pagemap, _ := os.Open("/proc/self/pagemap")
	defer pagemap.Close()
	for _, m := range list {
		// A fork does not copy shared memory, and the stack and the kernel's
		// mappings are small.
		if !m.writable || !m.private || m.name != "" &&
			!strings.HasPrefix(m.name, "[anon:") && m.name != "[heap]" {
			continue
		}
		from := (m.from + hugePage - 1) &^ (hugePage - 1)
		for ; from+hugePage <= m.to; from += hugePage {
			filled := uintptr(0)
			for _, part := range resident(pagemap, segment{from, from + hugePage}) {
				filled += part.to - part.from
			}
			if filled < worthCollapse {
				continue
			}
			if _, _, e := syscall.RawSyscall(syscall.SYS_MADVISE, from, hugePage,
				unix.MADV_COLLAPSE); e == 0 {
				collapsed += uint64(hugePage)
			}
		}
	}
	return collapsed, nil
}

// ShedThreads ends idle threads, because a fork freezes and rebuilds each, and
// returns the number that is left. The runtime never ends an idle thread, but
// it ends one whose goroutine ends while locked to it. So ShedThreads starts as
// many such goroutines as there are threads. With GOMAXPROCS 1 fewer threads
// are left. The threads also delete their timers of a CPU profile that was
// stopped.
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
	// The caller's thread is not needed either, unless it is the process's
	// first.
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		keepFirstThread()
		close(done)
	}()
	<-done
	return settledThreads()
}

// keepFirstThread unlocks a goroutine that is about to end from the process's
// first thread.
func keepFirstThread() {
	if syscall.Gettid() == os.Getpid() {
		runtime.UnlockOSThread()
	}
}

// settledThreads counts the threads when the number no longer changes, because
// they end a moment after their goroutines.
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

// threads returns the kernel's count. The links of /proc/self/task are two
// more. The call is raw, because the runtime starts a thread during a long
// system call that it knows of.
func threads() int {
	path := [...]byte{15: 0}
	copy(path[:], "/proc/self/task")
	var st unix.Statx_t
	if _, _, e := syscall.RawSyscall6(unix.SYS_STATX, 0, uintptr(unsafe.Pointer(&path)), 0,
		unix.STATX_NLINK, uintptr(unsafe.Pointer(&st)), 0); e != 0 {
		return 0
	}
	return int(st.Nlink) - 2
}
