package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// MinSize is the size of the smallest payload, with a number at its head and the
// constant tail at its end.
const MinSize = 16

// endOfStream is the number of a message that requests the report.
const endOfStream = ^uint64(0)

// tail is the value of the last eight bytes of each payload.
const tail = 0x5350574e53505752

// newPayload returns a payload of size bytes with the tail. stamp sets its number.
func newPayload(size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i * 7)
	}
	binary.LittleEndian.PutUint64(p[size-8:], tail)
	return p
}

// endPayload returns a payload that requests the report.
func endPayload(size int) []byte {
	p := newPayload(size)
	stamp(p, endOfStream)
	return p
}

// stamp sets the number of a payload. The numbers show lost, doubled and stale
// messages.
func stamp(p []byte, number uint64) { binary.LittleEndian.PutUint64(p, number) }

// number returns the number of a payload.
func number(p []byte) uint64 { return binary.LittleEndian.Uint64(p) }

// report counts the messages of a stream at the receiver. Sum adds the number, the
// tail and the length of each message. Reading every byte would measure the
// memory and not the peers. Reading no byte would accept a message that the peer
// has not decoded.
type report struct {
	Count uint64
	Sum   uint64
}

func (r *report) add(p []byte) {
	r.Count++
	r.Sum += number(p) + binary.LittleEndian.Uint64(p[len(p)-8:]) + uint64(len(p))
}

// take adds a payload, or reports whether it requests the report.
func (r *report) take(p []byte) (asked bool) {
	if number(p) == endOfStream {
		return true
	}
	r.add(p)
	return false
}

// reportSize is the size of an encoded report, in bytes.
const reportSize = 16

func (r report) bytes() []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, r.Count), r.Sum)
}

func parseReport(b []byte) (report, error) {
	if len(b) != reportSize {
		return report{}, fmt.Errorf("the receiver's report has %d bytes, want %d", len(b),
			reportSize)
	}
	return report{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}, nil
}

// want returns the expected report for n messages of this size. numbers is the sum
// of their numbers.
func want(n, size int, numbers uint64) report {
	return report{Count: uint64(n), Sum: numbers + uint64(n)*(tail+uint64(size))}
}

// tally is a report for concurrent use.
type tally struct{ count, sum atomic.Uint64 }

func (t *tally) add(p []byte) {
	var r report
	r.add(p)
	t.merge(r)
}

func (t *tally) merge(r report) {
	t.count.Add(r.Count)
	t.sum.Add(r.Sum)
}

// take returns the report and resets it.
func (t *tally) take() report { return report{t.count.Swap(0), t.sum.Swap(0)} }

// roundTrips is a Worker for round trips.
type roundTrips struct {
	size   int
	trip   trip
	close  func() error
	allocs func() (uint64, error) // of the other process, or nil

	payload []byte
	next    uint64
	each    []time.Duration
}

func (w *roundTrips) Run(n int) (Took, error) {
	if w.payload == nil {
		w.payload = newPayload(w.size)
	}
	w.each = w.each[:0]
	start := time.Now()
	last := start
	for range n {
		w.next++
		stamp(w.payload, w.next)
		answer, err := w.trip(w.payload)
		if err != nil {
			return Took{}, err
		}
		if len(answer) != w.size || number(answer) != w.next {
			return Took{}, fmt.Errorf("round trip %d: the answer is not what was sent (%d bytes)",
				w.next, len(answer))
		}
		now := time.Now()
		w.each = append(w.each, now.Sub(last))
		last = now
	}
	return Took{Total: last.Sub(start), Each: w.each}, nil
}

func (w *roundTrips) Close() error { return w.close() }

func (w *roundTrips) OtherAllocs() (uint64, error) { return otherAllocs(w.allocs) }

// stream is a Worker for one-way messages from one or many goroutines.
type stream struct {
	job Job
	// open returns the sender of one goroutine. It is called once for each
	// goroutine, before the first message.
	open func() (sender, error)
	// report requests the receiver's report since the last call, after all senders
	// are done. It is nil if each sender has a report of its own.
	report func() (report, error)
	close  func() error

	senders  []sender
	payloads [][]byte // of each sender
}

// sender sends the messages of one goroutine.
type sender interface {
	// send sends the payload. The caller may change it afterwards.
	send(payload []byte) error
	// done is called after the last send of a Run. It flushes all buffers. It
	// returns the receiver's report if each sender has one of its own.
	done() (report, error)
}

func (w *stream) Run(n int) (Took, error) {
	goroutines := 1
	if w.job.Work == Senders {
		goroutines = Goroutines
	}
	for len(w.senders) < goroutines {
		s, err := w.open()
		if err != nil {
			return Took{}, err
		}
		w.senders = append(w.senders, s)
		w.payloads = append(w.payloads, newPayload(w.job.Size))
	}
	var got tally
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	start := time.Now()
	for i, s := range w.senders {
		from, to := i*n/goroutines, (i+1)*n/goroutines
		part := func() { errs[i] = sendPart(s, w.payloads[i], from, to, &got) }
		if goroutines == 1 {
			part()
		} else {
			wg.Go(part)
		}
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return Took{}, err
	}
	if w.report != nil {
		r, err := w.report()
		if err != nil {
			return Took{}, err
		}
		got.merge(r)
	}
	took := time.Since(start)
	all := uint64(n)
	if got, want := got.take(), want(n, w.job.Size, all*(all-1)/2); got != want {
		return Took{}, fmt.Errorf("the receiver got %d of %d messages, checksum %#x, want %#x",
			got.Count, n, got.Sum, want.Sum)
	}
	return Took{Total: took}, nil
}

// sendPart sends the messages with numbers from <= number < to.
func sendPart(s sender, payload []byte, from, to int, got *tally) error {
	for i := from; i < to; i++ {
		stamp(payload, uint64(i))
		if err := s.send(payload); err != nil {
			return err
		}
	}
	r, err := s.done()
	got.merge(r)
	return err
}

func (w *stream) Close() error { return w.close() }

// sendFunc is a sender whose done does nothing.
type sendFunc func(payload []byte) error

func (f sendFunc) send(payload []byte) error { return f(payload) }
func (f sendFunc) done() (report, error)     { return report{}, nil }

// each returns an open function for a sender that all goroutines share.
func each(s sender) func() (sender, error) { return func() (sender, error) { return s, nil } }
