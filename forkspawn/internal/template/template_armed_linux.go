//go:build amd64 || arm64

package template

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

// A template with no goroutines but its own is armed: it waits for requests
// with all its threads frozen, as they must be for a fork
// (docs/design/172-armed-template.md).

const (
	// armedBound is how long the template waits frozen. Then it runs for
	// restBound, because the warm-up can have left timers, and the runtime has
	// some.
	armedBound = 10 * time.Second
	restBound  = time.Millisecond
	// disarmedBound is how long the template runs after its threads could not
	// be frozen, it got a signal, or a timer started a goroutine.
	disarmedBound = time.Second
)

// CollectAfter is when a template collects garbage again, unless its warm-up or
// GOGC has turned collections off. The runtime does it two minutes after the
// last collection. In a frozen template it could not, so each child would.
// Tests set it to less.
var CollectAfter = 100 * time.Second

// armed is the part of a server for this.
type armed struct {
	request refork.Request
	// how long to wait for a request before the template is armed again; 0 is for ever
	rest     time.Duration
	rested   time.Time // when such a wait was last over
	before   bool      // the template was armed before, so it had no goroutines then
	collects bool      // collections are not turned off
	// when the last one was, by the monotonic clock, which the runtime uses too
	collected time.Time
	// collecting is set while a goroutine collects. It sets collected before it
	// clears collecting.
	collecting atomic.Bool
}

// prepareArmed is called before the first forkArmed.
func (s *server) prepareArmed() {
	percent := debug.SetGCPercent(-1)
	debug.SetGCPercent(percent)
	s.armed.collects = percent >= 0
	s.armed.rested = time.Now()
}

// forkArmed freezes this process, and forks it when a request has come. Its
// error is [refork.ErrDisarmed] when forkAsked must wait for the request, or
// for the rest of it.
func (s *server) forkArmed() (pid, pidfd int, err error) {
	s.got, s.nFiles, s.armed.rest = 0, 0, 0
	if s.armed.collecting.Load() {
		s.armed.rest = restBound
		return 0, -1, refork.ErrDisarmed
	}
	if runtime.NumGoroutine() > 1 { // the warm-up's goroutines run on, and may end
		if s.armed.before {
			s.armed.rest = disarmedBound
		}
		return 0, -1, refork.ErrDisarmed
	}
	patience := armedBound - time.Since(s.armed.rested)
	if patience <= 0 {
		s.armed.rest = restBound
		return 0, -1, refork.ErrDisarmed
	}
	if s.armed.collects && time.Since(s.armed.collected) > CollectAfter {
		s.armed.collecting.Store(true)
		go func() {
			runtime.GC()
			s.armed.collected = time.Now()
			s.armed.collecting.Store(false)
		}()
		s.armed.rest = restBound
		return 0, -1, refork.ErrDisarmed
	}
	s.armed.before = true
	s.armed.request = refork.Request{
		Socket: s.report.Socket, Room: s.room, Control: s.oob[:],
		Counts: [2]int{forkFiles, connectedFiles}, Patience: patience,
	}
	// The runtime asks a goroutine to yield that has run for 10 ms. To the
	// runtime this one has run since the last start. A child with such a
	// request would wait for threads that it does not have yet.
	runtime.Gosched()
	pid, pidfd, err = s.fork(refork.Options{Request: &s.armed.request})
	s.got, s.errno, s.header.Controllen = s.armed.request.Size, 0,
		uint64(s.armed.request.ControlSize)
	if s.got == 0 {
		if s.armed.rest = disarmedBound; s.armed.request.Idle {
			s.armed.rest = restBound
		}
		// also after an error: there is no request yet that it could answer
		return 0, -1, refork.ErrDisarmed
	}
	s.takeFiles()
	s.request = s.room[:s.got]
	return pid, pidfd, err
}
