package forkspawn

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/refork"
)

// A template with no goroutines but its own is armed: it waits for requests with all its threads stopped, as they must be for a fork.
const (
	// armedBound is how long it does so before it runs for a moment, restBound: a warm-up can have left timers, and the runtime has some.
	armedBound = 10 * time.Second
	restBound  = time.Millisecond
	// disarmedBound is how long it runs when its threads could not be stopped, or it has got a signal, or a timer has started a goroutine.
	disarmedBound = time.Second
)

// collectAfter is when a template collects garbage once more, unless its warm-up or GOGC have turned that off. The runtime does so two
// minutes after the last time, or when it finds the time, which it would in each child if the template is stopped by then. Tests make it less.
var collectAfter = 100 * time.Second

// armed is what a templateProcess has for that.
type armed struct {
	request   refork.Request
	rest      time.Duration // how long to wait for a request before the template is armed once more; 0 is for ever
	rested    time.Time     // when such a wait was last over
	before    bool          // whether the template was armed before: it had no goroutines then
	collects  bool          // whether garbage is to be collected
	collected time.Time     // when it was last: by the monotonic clock, as the runtime does, while package debug tells the time of day
	// collecting is whether a goroutine does it, which sets collected before it is done.
	collecting atomic.Bool
}

// prepareArmed is called before the first forkArmed.
func (t *templateProcess) prepareArmed() {
	percent := debug.SetGCPercent(-1)
	debug.SetGCPercent(percent)
	t.armed.collects = percent >= 0
	t.armed.rested = time.Now()
}

// forkArmed stops this process, and forks it when a request is there. The error is [refork.ErrDisarmed] where forkAsked must wait for
// it, or for its rest.
func (t *templateProcess) forkArmed() (pid, pidfd int, err error) {
	t.got, t.nFiles, t.armed.rest = 0, 0, 0
	if t.armed.collecting.Load() {
		t.armed.rest = restBound
		return 0, -1, refork.ErrDisarmed
	}
	if runtime.NumGoroutine() > 1 { // what a warm-up has left running goes on, and it may end
		if t.armed.before {
			t.armed.rest = disarmedBound
		}
		return 0, -1, refork.ErrDisarmed
	}
	patience := armedBound - time.Since(t.armed.rested)
	if patience <= 0 {
		t.armed.rest = restBound
		return 0, -1, refork.ErrDisarmed
	}
	if t.armed.collects && time.Since(t.armed.collected) > collectAfter {
		t.armed.collecting.Store(true)
		go func() {
			runtime.GC()
			t.armed.collected = time.Now()
			t.armed.collecting.Store(false)
		}()
		t.armed.rest = restBound
		return 0, -1, refork.ErrDisarmed
	}
	t.armed.before = true
	t.armed.request = refork.Request{
		Socket: t.report.Socket, Room: t.room, Control: t.oob[:], Counts: [2]int{forkFiles, connectedFiles}, Patience: patience,
	}
	// The runtime asks a goroutine to yield that has run for 10 ms, and this one seems to it to have run since the last start. A child
	// that is born with that wish would wait for threads that it does not have yet.
	runtime.Gosched()
	pid, pidfd, err = t.fork(refork.Options{Request: &t.armed.request})
	t.got, t.errno, t.header.Controllen = t.armed.request.Size, 0, uint64(t.armed.request.ControlSize)
	if t.got == 0 {
		if t.armed.rest = disarmedBound; t.armed.request.Idle {
			t.armed.rest = restBound
		}
		return 0, -1, refork.ErrDisarmed // whatever it is: the request that it has to do with is yet to come
	}
	t.takeFiles()
	t.request = t.room[:t.got]
	return pid, pidfd, err
}
