//go:build amd64 || arm64

package refork

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// explanation is the text for a code, with %[1]d and %[2]d for the result's a
// and b.
type explanation struct {
	reason string
	remedy string
	retry  bool // another attempt may succeed
}

// explanations has the codes whose texts need nothing else.
var explanations = [...]explanation{
	failedMask:   {reason: "rt_sigprocmask"},
	failedAction: {reason: "rt_sigaction for signal " + freezeSignalText},
	foreignHandler: {
		reason: "signal " + freezeSignalText + " has a handler already, at %#[1]x",
		remedy: "leave that signal to this package",
	},
	failedList:     {reason: "list of /proc/self/task or /proc/self/fd"},
	tooManyThreads: {reason: "more than %[1]d threads"},
	tooManyFiles:   {reason: "more than %[1]d descriptors"},
	noSelf:         {reason: "/proc/self/task does not list the calling thread %[1]d", retry: true},
	wrongLinks: {reason: "the kernel counts %[1]d threads, and lists %[2]d in /proc/self/task",
		retry: true},
	wrongCount: {reason: "%[1]d threads stopped, of %[2]d with this one", retry: true},
	wrongMs:    {reason: "the Go runtime has %[1]d threads, the kernel %[2]d", retry: true},
	wrongM: { // also a thread that has just started
		reason: "thread %[1]d is not one of the Go runtime, whose record has %[2]d in its place",
		remedy: "start no threads but by the Go runtime", retry: true,
	},
	starting: {reason: "thread %[1]d is about to note its id", retry: true},
	// The states are in their places, or Prepare would have failed. A thread can be
	// stopped while it makes new numbers, and then its state does not look like one.
	wrongRand: {
		reason: "thread %[1]d has no random state where it should be", retry: true,
	},
	wrongGlobalRand: {
		reason: "the global random state is not where it should be", retry: true,
	},
	profiling: {
		reason: "a CPU profile is running",
		remedy: "stop it before (pprof.StopCPUProfile)",
	},
	failedTimer: {reason: "whether a CPU profile is running cannot be told"},
	posixTimer: {
		reason: "POSIX timer %[1]d exists, which the child would not have",
		remedy: "delete it; those of a CPU profile that was stopped go when their threads run Go code once more, " +
			"as each locked to a goroutine must (runtime.Gosched)",
	},
	failedPoller:  {reason: "read of /proc/self/fdinfo/%[1]d"},
	pollerTooLong: {reason: "more files in the runtime's poller than a list of %[1]d bytes has"},
	pollerChanged: {reason: "the runtime's poller has %[1]d wake-up descriptors in place of one"},
	idle:          {}, // the last code
}

// explain turns the result of the frozen section into an error, and reports
// whether another attempt may succeed. It notes threads in blocking.
func (f *Forker) explain(r result, blocking map[uint32]blocker) (refused *Refused, retry bool) {
	refused = &Refused{}
	if r.errno != 0 {
		refused.Err = r.errno
	}
	switch r.code {
	case stillInside:
		refused.Err = ErrSlow
		refused.Reason = fmt.Sprintf("%d threads have not left the handler of signal %d", r.a,
			freezeSignal)
		if r.b != 0 {
			refused.Reason = "this process's threads have not all been rebuilt"
		}
		return refused, true
	case timedOut:
		return f.explainTimeOut(r, blocking)
	case wrongTLS:
		return cgoLinked(), false
	case failedClone:
		refused.Reason = "clone"
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
	x := explanations[r.code]
	switch {
	case x.reason == "":
		refused.Reason = fmt.Sprintf("result %d", r.code)
	case strings.Contains(x.reason, "%"):
		refused.Reason = fmt.Sprintf(x.reason, r.a, r.b)
	default:
		refused.Reason = x.reason
	}
	refused.Remedy = x.remedy
	return refused, x.retry
}

// explainTimeOut looks at the threads that did not stop.
func (f *Forker) explainTimeOut(
	r result, blocking map[uint32]blocker,
) (refused *Refused, retry bool) {
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
		if blocked && !strings.HasPrefix(state, "R") { // a runnable thread only waits for a CPU
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
	return &Refused{Err: ErrSlow, Reason: fmt.Sprintf("%d of %d threads did not stop in time: %s",
		int(r.a)-int(r.b), r.a, strings.Join(late, ", "))}, true
}

func leaderEnded() *Refused {
	return &Refused{Reason: "the process's first thread has ended",
		Remedy: "no goroutine may end while it is locked to that thread"}
}

// wasFrozen reports whether a thread was frozen when the last attempt ended.
// The end raised gen by one.
func wasFrozen(a *arena, tid uint32) bool {
	for i := range slots(a) {
		if a.slots[i].gen == a.gen-1 && a.slots[i].tid == tid {
			return true
		}
	}
	return false
}

// threadState returns a thread's state, and whether it blocks the freeze signal
// (proc_pid_status(5)).
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
