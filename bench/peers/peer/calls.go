package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Callers is round trips of many goroutines over one connection.
	Callers Work = "callers"
	// Beside is round trips of one goroutine while two others send large messages and
	// get them back, over one connection.
	Beside Work = "beside"
	// Unread is messages from the other process on many streams of one connection. An
	// operation is a message on each. One more stream has messages that nobody reads.
	Unread Work = "unread"
	// Cancel is calls that are cancelled. An operation is the time from the cancel to
	// the acknowledgement that the handler has ended. Alone, it is a round trip.
	Cancel Work = "cancel"
)

const (
	// MaxLarge is the largest size for Job.Large.
	MaxLarge = 16 << 20
	// Streams is the number of streams of Unread.
	Streams = 1000
)

// HasAlone reports whether the job is also done alone, without its disturbance.
func (j Job) HasAlone() bool { return j.Work == Beside || j.Work == Unread || j.Work == Cancel }

// calls reports whether the job needs calls, so that the floors cannot do it.
func (j Job) calls() bool { return j.Work == Callers || j.HasAlone() }

// trip sends a payload and returns the answer, which is valid until the next call.
type trip func(payload []byte) ([]byte, error)

// caller is the caller's side of a library for calls.
type caller struct {
	// unary returns a function that makes the calls of one goroutine.
	unary func() trip
	// down opens a stream of messages from the other process. nil: there are none.
	down func() (*down, error)
	// cancel makes a call and cancels it. It returns the time until the library has
	// reported that the handler has ended. nil: the library does not report that.
	cancel func() (time.Duration, error)
	// allocs returns how often the other process has allocated, or is nil.
	allocs func() (uint64, error)
	close  func() error
}

// down is a bidirectional stream of a call. For each request the other process sends
// as many copies of it as its number says.
type down struct {
	ask  func(payload []byte) error
	next func() ([]byte, error)
	end  func() // ends the call, also if there is more to read
}

// worker returns the Worker of a job of calls.
func (c *caller) worker(job Job) Worker {
	switch job.Work {
	case Callers:
		return &callers{caller: c, size: job.Size}
	case Beside:
		return &beside{roundTrips: c.trips(job), caller: c, job: job}
	case Unread:
		return &unread{caller: c, alone: job.Alone, size: job.Size}
	case Cancel:
		if !job.Alone {
			return &cancels{c}
		}
	}
	return c.trips(job)
}

func (c *caller) trips(job Job) *roundTrips {
	return &roundTrips{size: job.Size, trip: c.unary(), close: c.close, allocs: c.allocs}
}

// callers is a Worker for round trips of many goroutines.
type callers struct {
	*caller
	size int
	all  []*roundTrips
}

func (w *callers) Close() error { return w.close() }

func (w *callers) OtherAllocs() (uint64, error) { return otherAllocs(w.allocs) }

func (w *callers) Run(n int) (Took, error) {
	for len(w.all) < Goroutines {
		w.all = append(w.all, w.trips(Job{Size: w.size}))
	}
	errs := make([]error, Goroutines)
	var wg sync.WaitGroup
	start := time.Now()
	for i, one := range w.all {
		wg.Go(func() { _, errs[i] = one.Run((i+1)*n/Goroutines - i*n/Goroutines) })
	}
	wg.Wait()
	return Took{Total: time.Since(start)}, errors.Join(errs...)
}

// beside is a Worker for round trips beside large messages.
type beside struct {
	*roundTrips
	caller *caller
	job    Job
	large  []trip
}

func (w *beside) Run(n int) (Took, error) {
	if w.job.Alone {
		return w.roundTrips.Run(n)
	}
	for len(w.large) < 2 {
		w.large = append(w.large, w.caller.unary())
	}
	var stop atomic.Bool
	errs := make([]error, len(w.large))
	var wg, started sync.WaitGroup
	started.Add(len(w.large))
	for i, call := range w.large {
		wg.Go(func() {
			payload := newPayload(w.job.Large)
			started.Done()
			for !stop.Load() && errs[i] == nil {
				answer, err := call(payload)
				if err == nil && len(answer) != len(payload) {
					err = fmt.Errorf("an answer of %d bytes", len(answer))
				}
				errs[i] = err
			}
		})
	}
	started.Wait()
	took, err := w.roundTrips.Run(n)
	stop.Store(true)
	wg.Wait()
	return took, errors.Join(append(errs, err)...)
}

// unread is a Worker for streams from the other process.
type unread struct {
	*caller
	alone   bool
	size    int
	streams []*down
}

func (w *unread) Close() error { return w.close() }

func (w *unread) Run(n int) (took Took, err error) {
	for len(w.streams) < Streams {
		s, err := w.down()
		if err != nil {
			return Took{}, err
		}
		w.streams = append(w.streams, s)
	}
	if !w.alone {
		// A new one each time, because some libraries end it.
		s, err := w.down()
		if err != nil {
			return Took{}, err
		}
		defer s.end()
		if err := s.ask(request(w.size, 1<<40)); err != nil {
			return Took{}, err
		}
	}
	errs := make([]error, len(w.streams))
	var wg sync.WaitGroup
	start := time.Now()
	for i, s := range w.streams {
		wg.Go(func() { errs[i] = s.take(w.size, n) })
	}
	wg.Wait()
	took.Total = time.Since(start)
	return took, errors.Join(errs...)
}

// take asks for n messages and takes them.
func (d *down) take(size, n int) error {
	if err := d.ask(request(size, n)); err != nil {
		return err
	}
	for range n {
		p, err := d.next()
		if err != nil {
			return err
		}
		if len(p) != size || number(p) != uint64(n) {
			return fmt.Errorf("a message that was not sent (%d bytes)", len(p))
		}
	}
	return nil
}

// cancels is a Worker for cancelled calls.
type cancels struct{ *caller }

func (w *cancels) Close() error { return w.close() }

func (w *cancels) Run(n int) (took Took, err error) {
	for range n {
		one, err := w.cancel()
		if err != nil {
			return Took{}, err
		}
		took.Total += one
	}
	return took, nil
}

// request returns a payload that requests n copies of itself.
func request(size, n int) []byte {
	payload := newPayload(size)
	stamp(payload, uint64(n))
	return payload
}

// produce answers the requests of a down until receive fails.
func produce(receive func() ([]byte, error), send func([]byte) error) error {
	for {
		payload, err := receive()
		if err != nil {
			return untilClosed(err)
		}
		for range number(payload) {
			if err := send(payload); err != nil {
				return err
			}
		}
	}
}

// background is the context of calls, because Worker.Close ends every call.
var background = context.Background()
