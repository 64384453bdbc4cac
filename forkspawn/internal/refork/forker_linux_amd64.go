package refork

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Forker forks this process. There is one in a process.
type Forker struct {
	a      *arena
	cgroup []cgroupFile

	mu     sync.Mutex // held from a Fork's beginning to its end, in the child too
	asked  *Request   // of the Fork under way, or the last one: what the kernel writes to must not be on a stack, which can move
	opened bool       // the arena's five descriptors are open; they stay so
	stats  Stats
}

// Stats tell what forks took, for measurements.
type Stats struct {
	Forks   int // that made a child
	Retries int // attempts to freeze that ran out of time and were made again
	// Of the last fork: until all threads were frozen, from then until they ran again, and how many there were. With a Request the first
	// is 0, and the second from when that was there.
	Freeze, Frozen time.Duration
	Threads        int
}

// Prepare does what is to be done once in a process, a few milliseconds, and finds out whether it can be
// forked at all. The error is a *Refused. Later calls return the same.
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
		return nil, &Refused{Reason: "/proc is not that of this process's pid namespace", Err: err, Remedy: "mount one"}
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
		handler:  handlerPC(),
		restorer: restorerPC(),
		flags:    saSiginfo | saOnStack | saRestart | saRestorer,
		mask:     ^uint64(0),
	}
	shared = a
	f := &Forker{a: a, cgroup: cgroup}
	if r := install(a); r.code != ok {
		refused, _ := f.explain(r, nil)
		return nil, refused
	}
	return f, nil
})

// Stats returns what this process's forks took; a child begins with its parent's.
func (f *Forker) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// Attempts to freeze all threads are made for giveUp. The bound of each doubles, and the pause after it grows.
const (
	giveUp     = 4 * time.Second
	firstWait  = 20 * time.Millisecond
	lastWait   = 320 * time.Millisecond
	firstPause = time.Millisecond
	lastPause  = 20 * time.Millisecond
	// A thread that sleeps and blocks the signal at the end of so many attempts, and so long after the first of
	// them, is taken to do so for good: the runtime does it for moments.
	maxBlocked  = 8
	longBlocked = time.Second
)

// Fork forks the process. It returns twice: in the parent with the child's pid, in the child with 0, on
// the same thread, which is the child's thread group leader. The pidfd is -1 where there is none. The
// error is a *Refused, and there is no child then.
//
// To do in the child what belongs to its first thread, as its name and its parent-death signal do, lock the goroutine
// to its thread before the call. A goroutine that ends while it is locked takes its thread with it, and a
// process whose first thread has ended cannot be forked again.
//
// The first call opens five descriptors, which stay open, close-on-exec.
//
// Forks of several goroutines take turns. Programs are not started meanwhile (syscall.ForkLock).
func (f *Forker) Fork(o Options) (pid, pidfd int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.EndAlone() // of this process, whose builder must be done
	f.asked = o.Request
	if err := f.request(&o); err != nil {
		return 0, -1, err
	}
	if err := prepareReport(f.a, o.Report); err != nil {
		return 0, -1, err
	}
	if err := prepareRequest(f.a, &o); err != nil {
		return 0, -1, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	if err := f.open(); err != nil {
		return 0, -1, err
	}
	a := f.a
	// Locking the thread may have started another. It is there in a moment.
	for range 20 {
		if n, e := threadCount(a); e != 0 || n == runtimeThreads() {
			break
		}
		syscall.Nanosleep(&syscall.Timespec{Nsec: 20_000}, nil) // as time.Sleep takes a millisecond at least
	}
	wait, pause := firstWait, firstPause
	var blocking map[uint32]blocker // made when there is need for it: what is written to before a fork costs both processes a fault
	woken := false
	began := time.Now()
	for {
		a.wait = int64(wait)
		start := clock(a)
		freezeAndFork(a)
		if r := o.Request; r != nil {
			r.Size, r.Idle = a.request.size, a.result.code == idle
			if r.Size > 0 {
				r.ControlSize = int(a.request.header.controlLen)
			}
			start = a.frozenAt
			f.stats.Forks += a.request.served
			if a.result.code != ok && a.result.code != failedClone {
				return 0, -1, ErrDisarmed
			}
		}
		if a.child {
			// The child, which has closed these but the poison.
			f.close([]*uintptr{&a.poison})
			return 0, -1, nil
		}
		if a.result.code == ok {
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
			return int(a.pid), pidfd, nil
		}
		if blocking == nil {
			blocking = make(map[uint32]blocker)
		}
		refused, retry := f.explain(a.result, blocking)
		if a.result.code == posixTimer {
			// Those of a profile that was stopped stay until their threads run Go code once more, this one too.
			if retry = deleteOrphanTimers(); !retry && !woken {
				ShedThreads()
				wakeSignalThread()
				woken, retry = true, true
			}
		}
		if !retry || time.Since(began) > giveUp {
			return 0, -1, refused
		}
		f.stats.Retries++
		// What kept a thread from stopping goes on now: see the package comment.
		time.Sleep(pause)
		pause = min(pause+firstPause, lastPause)
		wait = min(2*wait, lastWait)
	}
}

// EndAlone ends Options.Alone. It may be called at any time, in a process that was forked or not.
func (f *Forker) EndAlone() {
	if atomic.SwapUint32(&f.a.alone, 0) != 0 {
		syscall.RawSyscall(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(&f.a.alone)), 1|128 /* FUTEX_WAKE_PRIVATE */, 1)
	}
}

// blocker is what is known of a thread that was seen to sleep and block the signal.
type blocker struct {
	times int
	since time.Time
}

// request puts what is asked for into the arena. Its system calls are raw, as others wake a thread of the runtime's that
// looks after those that take long.
func (f *Forker) request(o *Options) error {
	if err := refuseNow(); err != nil {
		return err
	}
	a := f.a
	a.cloneFlags = uintptr(syscall.SIGCHLD)
	if o.Sibling {
		a.cloneFlags |= unix.CLONE_PARENT
	}
	if o.Pidfd {
		a.cloneFlags |= unix.CLONE_PIDFD
	}
	a.pidfd = -1
	a.alone, a.aloneFor = 0, syscall.NsecToTimespec(max(0, int64(o.Alone)))

	a.nKeep = 0
	for _, c := range f.cgroup {
		var st syscall.Stat_t
		_, _, e := syscall.RawSyscall(syscall.SYS_FSTAT, uintptr(c.fd), uintptr(unsafe.Pointer(&st)), 0)
		if e == 0 && st.Dev == c.dev && st.Ino == c.ino && a.nKeep < maxMoves {
			a.keep[a.nKeep] = uint32(c.fd)
			a.nKeep++
		}
	}
	if len(o.Files) > maxMoves {
		return &Refused{Reason: fmt.Sprintf("%d files for the child, of at most %d", len(o.Files), maxMoves)}
	}
	var limit syscall.Rlimit
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&limit)), 0, 0)
	if e != 0 {
		return &Refused{Reason: "getrlimit(RLIMIT_NOFILE)", Err: e}
	}
	a.nMoves = 0
	a.dupMin = 3
	for i, file := range o.Files {
		if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(file.From), unix.F_GETFD, 0); e != 0 || file.From < 0 {
			return &Refused{Reason: fmt.Sprintf("descriptor %d, which the child shall get, is not open", file.From), Err: syscall.EBADF}
		}
		if file.To >= 0 && uint64(file.To)+1 >= limit.Cur {
			return &Refused{Reason: fmt.Sprintf("no descriptor %d for the child", file.To), Err: syscall.EMFILE, Remedy: "raise the limit with ulimit -n"}
		}
		taken := file.To < 0 || uint32(file.To) == a.layout.epoll || uint32(file.To) == a.layout.eventfd
		for _, k := range a.keep[:a.nKeep] {
			taken = taken || uint32(file.To) == k
		}
		if taken {
			return &Refused{Reason: fmt.Sprintf("the child cannot have a descriptor %d of yours", file.To), Remedy: "use another number"}
		}
		m := move{from: uint32(file.From), to: uint32(file.To)}
		for j, other := range o.Files {
			if i != j && other.To == file.To {
				return &Refused{Reason: fmt.Sprintf("two files are to be descriptor %d", file.To)}
			}
			m.first = m.first || i != j && other.To == file.From && file.From != file.To
		}
		a.moves[a.nMoves] = m
		a.nMoves++
		a.dupMin = max(a.dupMin, uintptr(file.To)+1)
	}
	return nil
}

// open opens what forks need, or leaves it open. It must lie above the numbers that the child's files go to.
func (f *Forker) open() error {
	a := f.a
	own := []*uintptr{&a.taskDir, &a.fdDir, &a.fdInfo, &a.signals, &a.poison}
	if f.opened {
		low := false
		for _, fd := range own {
			low = low || *fd < a.dupMin
		}
		if !low {
			return nil
		}
		f.close(own)
	}
	f.opened = true
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		f.opened = false
		return &Refused{Reason: "socketpair", Err: err}
	}
	syscall.Close(pair[1])
	fds := [5]int{4: pair[0]}
	names := [5]string{"/proc/self/task", "/proc/self/fd", "/proc/self/fdinfo/" + strconv.Itoa(int(a.layout.epoll)), "signalfd", "socketpair"}
	for i, name := range names {
		switch {
		case i < 3:
			fds[i], err = syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		case i == 3:
			fds[i], err = openSignals()
		}
		if low := fds[i]; err == nil && low < int(a.dupMin) {
			fds[i], err = unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, int(a.dupMin))
			syscall.Close(low)
		}
		if err == nil {
			*own[i] = uintptr(fds[i])
			continue
		}
		f.close(own[:i])
		if i < 4 {
			syscall.Close(pair[0])
		}
		// /proc/self is the first thread's, which has nothing any more when it has ended.
		if state, _ := threadState(uint32(os.Getpid())); strings.HasPrefix(state, "Z") {
			return leaderEnded()
		}
		return &Refused{Reason: name, Err: err}
	}
	return nil
}

// openSignals opens what tells of a signal that is pending (signalfd(2)).
func openSignals() (int, error) {
	const flags = unix.SFD_CLOEXEC | unix.SFD_NONBLOCK
	fd, _, e := syscall.RawSyscall6(syscall.SYS_SIGNALFD4, ^uintptr(0), uintptr(unsafe.Pointer(&waitingSignals)), 8, flags, 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

func (f *Forker) close(own []*uintptr) {
	for _, fd := range own {
		syscall.Close(int(*fd))
	}
	f.opened = false
}

// explain turns the frozen section's numbers into an error, and tells whether another attempt may end better.
func (f *Forker) explain(r result, blocking map[uint32]blocker) (refused *Refused, retry bool) {
	var cause error
	if r.errno != 0 {
		cause = r.errno
	}
	say := func(format string, args ...any) *Refused {
		return &Refused{Reason: fmt.Sprintf(format, args...), Err: cause}
	}
	switch r.code {
	case failedMask:
		return say("rt_sigprocmask"), false
	case failedAction:
		return say("rt_sigaction for signal %d", freezeSignal), false
	case foreignHandler:
		refused = say("signal %d has a handler already, at %#x", freezeSignal, r.a)
		refused.Remedy = "leave that signal to this package"
		return refused, false
	case stillInside:
		if r.b != 0 {
			return say("this process's threads have not all been rebuilt"), true
		}
		return say("%d threads have not left the handler of signal %d", r.a, freezeSignal), true
	case timedOut:
		return f.explainTimeOut(r, blocking)
	case failedList:
		return say("list of /proc/self/task or /proc/self/fd"), false
	case tooManyThreads:
		return say("more than %d threads", maxThreads), false
	case tooManyFiles:
		return say("more than %d descriptors", maxFiles), false
	case noSelf:
		return say("/proc/self/task does not list the calling thread %d", r.a), true
	case wrongLinks:
		return say("the kernel counts %d threads, and lists %d in /proc/self/task", r.a, r.b), true
	case wrongCount:
		return say("%d threads stopped, of %d with this one", r.a, r.b), true
	case wrongMs:
		return say("the Go runtime has %d threads, the kernel %d", r.a, r.b), true
	case wrongM:
		// Also true of a thread that has just started: it may be better the next time.
		refused = say("thread %d is not one of the Go runtime, whose record has %d in its place", r.a, r.b)
		refused.Remedy = "start no threads but by the Go runtime"
		return refused, true
	case wrongFS:
		return cgoLinked().(*Refused), false
	case wrongRand:
		return say("thread %d has no random state where it should be", r.a), false
	case wrongGlobalRand:
		return say("the global random state is not where it should be"), false
	case profiling:
		refused = say("a CPU profile is running")
		refused.Remedy = "stop it before (pprof.StopCPUProfile)"
		return refused, false
	case failedTimer:
		return say("whether a CPU profile is running cannot be told"), false
	case posixTimer:
		refused = say("POSIX timer %d exists, which the child would not have", r.a)
		refused.Remedy = "delete it; those of a CPU profile that was stopped go when their threads run Go code once more, as each locked to a goroutine must (runtime.Gosched)"
		return refused, false
	case failedPoller:
		return say("read of /proc/self/fdinfo/%d", f.a.layout.epoll), false
	case pollerTooLong:
		return say("more files in the runtime's poller than a list of %d bytes has", textSize), false
	case pollerChanged:
		return say("the runtime's poller has %d wake-up descriptors in place of one", r.a), false
	case failedClone:
		refused = say("clone")
		switch r.errno {
		case syscall.EAGAIN:
			refused.Remedy = "raise the limit of processes (RLIMIT_NPROC, pids.max)"
		case syscall.ENOMEM:
			refused.Remedy = "the kernel has not the memory for a copy (vm.overcommit_memory)"
		case syscall.EINVAL:
			refused.Remedy = "the first process of a pid namespace cannot have siblings"
		}
		return refused, false
	}
	return say("result %d", r.code), false
}

// explainTimeOut looks at the threads that did not stop.
func (f *Forker) explainTimeOut(r result, blocking map[uint32]blocker) (refused *Refused, retry bool) {
	a := f.a
	var late []string
	for _, tid := range a.tids[:a.nTids] {
		if tid == a.self.tid || wasFrozen(a, tid) {
			continue
		}
		state, blocked := threadState(tid)
		if state == "" {
			continue // ended meanwhile
		}
		what := ""
		switch {
		case strings.HasPrefix(state, "Z"):
			what = ", has ended, and is the process's first"
		case blocked:
			what = ", blocks the signal"
		}
		late = append(late, fmt.Sprintf("thread %d (%s%s)", tid, state, what))
		if blocked && !strings.HasPrefix(state, "R") { // which only waits for a CPU
			b := blocking[tid]
			if b.times++; b.times == 1 {
				b.since = time.Now()
			}
			blocking[tid] = b
		}
		if b := blocking[tid]; b.times >= maxBlocked && time.Since(b.since) > longBlocked {
			return &Refused{
				Reason: fmt.Sprintf("thread %d blocks signal %d", tid, freezeSignal),
				Remedy: "unblock it there (rt_sigprocmask)",
			}, false
		}
		if strings.HasPrefix(state, "Z") {
			return leaderEnded(), false
		}
	}
	return &Refused{Reason: fmt.Sprintf("%d of %d threads did not stop in time: %s", int(r.a)-int(r.b), r.a, strings.Join(late, ", "))}, true
}

func leaderEnded() *Refused {
	return &Refused{Reason: "the process's first thread has ended", Remedy: "no goroutine may end while it is locked to that thread"}
}

// wasFrozen tells whether a thread had stopped when the last attempt ended, which raised gen by one.
func wasFrozen(a *arena, tid uint32) bool {
	for i := range slots(a) {
		if a.slots[i].gen == a.gen-1 && a.slots[i].tid == tid {
			return true
		}
	}
	return false
}

// threadState reads a thread's state and whether it blocks the signal (proc_pid_status(5)).
func threadState(tid uint32) (state string, blocked bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch key {
		case "State":
			state = strings.TrimSpace(value)
		case "SigBlk":
			mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			blocked = err == nil && mask&(1<<(freezeSignal-1)) != 0
		}
	}
	return state, blocked
}
