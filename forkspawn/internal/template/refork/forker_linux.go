//go:build amd64 || arm64

package refork

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Forker forks this process. A process has one.
type Forker struct {
	a      *arena
	cgroup []cgroupFile

	mu sync.Mutex // held from the beginning to the end of a Fork, in the child too
	// asked is the Request of the last Fork. The kernel writes to it, so it
	// must not lie on a goroutine's stack, which can move.
	asked  *Request
	opened bool // the arena's five descriptors are open; they stay so
	stats  Stats
}

// Stats are for measurements.
type Stats struct {
	Forks   int // forks with a child
	Retries int // attempts to freeze that ran out of time
	// Freeze and Frozen are times of the last fork: until all threads were
	// frozen, and from then until they ran again. With a Request, Freeze is 0
	// and Frozen counts from the request.
	Freeze, Frozen time.Duration
	Threads        int // in the last fork
}

// Prepare finds out whether this process can be forked, and does what is needed
// once, in a few milliseconds. Its error is a [*Refused]. Later calls return
// the same values.
func Prepare() (*Forker, error) { return prepare() }

var prepare = sync.OnceValues(func() (*Forker, error) {
	if raceDetector {
		return nil, &Refused{
			Reason: "this program is built with the race detector, which needs cgo",
			Remedy: "build with CGO_ENABLED=0 and without -race",
		}
	}
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		if err == nil {
			err = fmt.Errorf("/proc/self is %s in process %d", self, os.Getpid())
		}
		return nil, &Refused{Reason: "/proc is not that of this process's pid namespace",
			Err: err, Remedy: "mount one"}
	}
	layout, err := findLayout()
	if err != nil {
		return nil, err
	}
	cgroup, err := cgroupFiles()
	if err != nil {
		return nil, err
	}
	a, err := newArena()
	if err != nil {
		return nil, err
	}
	a.layout = layout
	a.newAction = sigaction{
		handler: handlerPC(),
		flags:   saSiginfo | saOnStack | saRestart,
		mask:    ^uint64(0),
	}
	setRestorer(&a.newAction)
	shared = a
	f := &Forker{a: a, cgroup: cgroup}
	if r := install(a); r.code != ok {
		refused, _ := f.explain(r, nil)
		return nil, refused
	}
	return f, nil
})

// Stats returns the statistics of this process. Those of a child begin with its
// parent's.
func (f *Forker) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// Fork forks the process. It returns twice: in the parent with the child's pid,
// and in the child with 0. In the child the goroutine runs on the same thread,
// which is the child's first. pidfd is -1 if there is none. The error is a
// [*Refused] or, with a Request, ErrDisarmed, and then there is no child.
//
// The name and the parent-death signal of a process belong to its first thread.
// To set them in the child, lock the goroutine to its thread before the call. A
// goroutine that ends while it is locked ends its thread, and a process without
// its first thread cannot be forked. The runtime ends only other threads than the
// first of an executed process. So Fork should run on that one, with a goroutine that
// an init function has locked.
//
// The first call opens five descriptors, close-on-exec, which stay open.
//
// Fork may be called concurrently; one fork runs at a time. No other program is
// started meanwhile (syscall.ForkLock).
func (f *Forker) Fork(o Options) (pid, pidfd int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.EndAlone() // of this process, whose builder must have ended
	f.asked = o.Request
	if err := f.setOptions(&o); err != nil {
		return 0, -1, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	if err := f.open(); err != nil {
		return 0, -1, err
	}
	f.awaitThreads()
	a := f.a
	t := attempts{wait: firstWait, pause: firstPause, began: time.Now()}
	for {
		a.wait = int64(t.wait)
		start := clock(a)
		freezeAndFork(a)
		if o.Request != nil {
			start = a.frozenAt
			if disarmed := f.noteRequest(o.Request); disarmed {
				return 0, -1, ErrDisarmed
			}
		}
		if a.child {
			f.close([]*uintptr{&a.poison}) // the frozen section has closed the others
			return 0, -1, nil
		}
		if a.result.code == ok {
			pid, pidfd = f.noteChild(&o, start)
			return pid, pidfd, nil
		}
		if refused := t.again(f); refused != nil {
			return 0, -1, refused
		}
	}
}

// EndAlone ends Options.Alone. It may be called at any time and in any process.
func (f *Forker) EndAlone() {
	if atomic.SwapUint32(&f.a.alone, 0) != 0 {
		syscall.RawSyscall(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(&f.a.alone)),
			1|128 /* FUTEX_WAKE_PRIVATE */, 1)
	}
}

// awaitThreads waits for a thread that the runtime may have started when the
// goroutine was locked.
func (f *Forker) awaitThreads() {
	for range 20 {
		if n, e := threadCount(f.a); e != 0 || n == runtimeThreads() {
			return
		}
		// time.Sleep takes at least a millisecond
		syscall.Nanosleep(&syscall.Timespec{Nsec: 20_000}, nil)
	}
}

// noteRequest sets the results in r, and reports whether the wait for a request
// has ended without a fork.
func (f *Forker) noteRequest(r *Request) (disarmed bool) {
	a := f.a
	r.Size, r.Idle = a.request.size, a.result.code == idle
	if r.Size > 0 {
		r.ControlSize = int(a.request.header.controlLen)
	}
	f.stats.Forks += a.request.served
	return a.result.code != ok && a.result.code != failedClone
}

// noteChild returns the child's numbers, in the parent. start is when the
// freeze began.
func (f *Forker) noteChild(o *Options, start int64) (pid, pidfd int) {
	a := f.a
	f.stats.Forks++
	f.stats.Freeze = time.Duration(a.frozenAt - start)
	f.stats.Frozen = time.Duration(a.thawedAt - a.frozenAt)
	f.stats.Threads = a.nTids
	if o.Report != nil {
		o.Report.Sent = a.report.sent
	}
	pidfd = -1
	if o.Pidfd {
		pidfd = int(a.pidfd)
	}
	return int(a.pid), pidfd
}

const (
	giveUp     = 4 * time.Second       // after the first attempt to freeze no other begins
	giveUpLate = 8 * time.Second       // the same, if threads are late
	firstWait  = 20 * time.Millisecond // of the first attempt; it doubles
	lastWait   = 1280 * time.Millisecond
	// The pause after an attempt grows.
	firstPause = time.Millisecond
	lastPause  = 20 * time.Millisecond
	// The runtime blocks the signal for moments only. A thread that sleeps and
	// blocks it at the end of maxBlocked attempts, longBlocked after the first
	// of them, blocks it for ever.
	maxBlocked  = 8
	longBlocked = time.Second
)

// attempts are those of one Fork to freeze all threads.
type attempts struct {
	began       time.Time
	wait, pause time.Duration
	blocking    map[uint32]blocker // by thread id
	woken       bool               // the thread of package os/signal, for posixTimer
}

// blocker is a thread that was seen to sleep and block the signal.
type blocker struct {
	times int
	since time.Time
}

// again returns nil, after a pause, if another attempt may succeed. Otherwise
// it returns the reason for the failure of the last one.
func (t *attempts) again(f *Forker) *Refused {
	// not made before, because a write before the fork costs both processes a fault
	if t.blocking == nil {
		t.blocking = make(map[uint32]blocker)
	}
	refused, retry := f.explain(f.a.result, t.blocking)
	if f.a.result.code == posixTimer {
		// The timers of a profile that was stopped stay until their threads run
		// Go code again. This thread has one too.
		if retry = deleteOrphanTimers(); !retry && !t.woken {
			ShedThreads()
			wakeSignalThread()
			t.woken, retry = true, true
		}
	}
	bound := giveUp
	if errors.Is(refused, ErrSlow) {
		bound = giveUpLate
	}
	if !retry || time.Since(t.began) > bound {
		return refused
	}
	f.stats.Retries++
	time.Sleep(t.pause) // the obstacle, such as a thread that ends, goes on meanwhile
	t.pause = min(t.pause+firstPause, lastPause)
	t.wait = min(2*t.wait, lastWait)
	return nil
}
