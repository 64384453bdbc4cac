package osproc

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// Launcher is a locked thread for the starts of a Spawner. The kernel sends the
// parent-death signal when the forking thread ends, not the process (prctl(2),
// golang/go#27505). So the thread lives until Close.
//
// A start can wait in the kernel for a hanging file system, and no signal ends that
// wait. Then the Launcher continues with another thread. It uses a replaced thread
// again whose start has returned.
type Launcher struct {
	mu       sync.Mutex // guards what follows; not held during a start
	thread   *launcherThread
	replaced []*launcherThread // in the order of their replacement
}

type launcherThread struct {
	requests chan *launchRequest
	ended    chan struct{}
	began    atomic.Int64 // when the current start began, in Unix nanoseconds; 0 if there is none
}

type launchRequest struct {
	start func() error
	err   error // of start
	drop  func()
	// set by the thread after start, or before that by a Do that abandons it
	settled atomic.Bool
	done    chan struct{}
}

// NewLauncher starts the thread. The caller calls Close in the end.
func NewLauncher() *Launcher { return &Launcher{thread: newLauncherThread()} }

func newLauncherThread() *launcherThread {
	t := &launcherThread{requests: make(chan *launchRequest), ended: make(chan struct{})}
	go t.run()
	return t
}

// run starts processes until Close. Its goroutine ends locked, so the thread ends
// with it, and the remaining children get their parent-death signal.
func (t *launcherThread) run() {
	defer close(t.ended)
	runtime.LockOSThread()
	for req := range t.requests {
		t.began.Store(time.Now().UnixNano())
		req.err = req.start()
		t.began.Store(0)
		if req.settled.CompareAndSwap(false, true) {
			close(req.done)
		} else {
			req.drop()
		}
	}
}

const (
	// turnPatience is how long other starts wait for one that hangs. On a busy
	// machine a start takes a second.
	turnPatience = 2 * time.Second
	// patience is how long Do waits for start after the end of its context. Start
	// kills its child then, so it returns within moments, unless the child waits in
	// the kernel.
	patience = 500 * time.Millisecond
)

// Do calls start on the thread and returns its error. If ctx ends before that, Do
// returns ctx's error. If ctx ends during start and start does not return, Do
// returns a [*ResourceError] about program and dir, which may be empty. The thread
// then calls drop after start has returned.
func (l *Launcher) Do(
	ctx context.Context, program, dir string, start func() error, drop func(),
) error {
	req := &launchRequest{start: start, drop: drop, done: make(chan struct{})}
	for {
		t := l.current()
		select {
		case t.requests <- req:
			return l.await(ctx, t, req, program, dir)
		default:
		}
		turn := time.NewTimer(turnPatience)
		select {
		case t.requests <- req:
			turn.Stop()
			return l.await(ctx, t, req, program, dir)
		case <-ctx.Done():
			turn.Stop()
			return wait.Cause(ctx)
		case <-turn.C:
			if began := t.began.Load(); began != 0 &&
				time.Since(time.Unix(0, began)) >= turnPatience {
				l.replace(t)
			}
		}
	}
}

func (l *Launcher) current() *launcherThread {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.thread
}

// replace replaces the thread t, which hangs in a start.
func (l *Launcher) replace(t *launcherThread) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.thread != t {
		return
	}
	idle := slices.IndexFunc(l.replaced, func(other *launcherThread) bool {
		return other.began.Load() == 0
	})
	if idle < 0 {
		l.thread = newLauncherThread()
	} else {
		l.thread = l.replaced[idle]
		l.replaced = slices.Delete(l.replaced, idle, idle+1)
	}
	l.replaced = append(l.replaced, t)
}

// await waits for a start in progress on t.
func (l *Launcher) await(
	ctx context.Context, t *launcherThread, req *launchRequest, program, dir string,
) error {
	select {
	case <-req.done:
		return req.err
	case <-ctx.Done():
	}
	if wait.For(context.Background(), req.done, patience) ||
		!req.settled.CompareAndSwap(false, true) {
		<-req.done
		return req.err
	}
	l.replace(t)
	what := "the program " + cmp.Or(program, "of this process")
	if dir != "" {
		what += " or the directory " + dir
	}
	return Unanswered(what, wait.Cause(ctx))
}

// Unanswered returns the error of a start that waits in the kernel for a file.
func Unanswered(file string, cause error) *ResourceError {
	return &ResourceError{
		file + " is on a file system that does not answer",
		"check the mount; the process is killed when the kernel lets go of it", cause,
	}
}

// Close ends the thread and waits for it. It reports whether an abandoned start is
// still waiting in the kernel. The thread of such a start ends with the start. The
// caller must not call Do afterwards.
func (l *Launcher) Close() (waiting bool) {
	close(l.thread.requests)
	<-l.thread.ended
	for _, t := range l.replaced {
		close(t.requests)
		select {
		case <-t.ended:
		case <-time.After(patience):
			waiting = true
		}
	}
	return waiting
}
