package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// MinSize is the smallest payload: the number at its head and the mark at its tail.
const MinSize = 16

// endOfStream is the number of the message that asks for the receiver's report.
const endOfStream = ^uint64(0)

// tail is what the last eight bytes of each payload are.
const tail = 0x5350574e53505752

// newPayload returns size bytes to send: a number at the head, which stamp sets, and the mark at the tail.
func newPayload(size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i * 7)
	}
	binary.LittleEndian.PutUint64(p[size-8:], tail)
	return p
}

// endPayload returns the message that asks for the receiver's report.
func endPayload(size int) []byte {
	p := newPayload(size)
	stamp(p, endOfStream)
	return p
}

// stamp gives the payload its number, so that a message that is lost, doubled or stale is found.
func stamp(p []byte, number uint64) { binary.LittleEndian.PutUint64(p, number) }

// number returns what stamp has set.
func number(p []byte) uint64 { return binary.LittleEndian.Uint64(p) }

// report is what the receiver of a stream has seen. A message's part in the sum is its number, its tail and its
// length: touching every byte would measure the memory and not the peers, and reading none would let a peer
// hand out what it has not decoded.
type report struct {
	Count uint64
	Sum   uint64
}

func (r *report) add(p []byte) {
	r.Count++
	r.Sum += number(p) + binary.LittleEndian.Uint64(p[len(p)-8:]) + uint64(len(p))
}

// take adds a payload of a stream, or says that it asks for the report.
func (r *report) take(p []byte) (asked bool) {
	if number(p) == endOfStream {
		return true
	}
	r.add(p)
	return false
}

// reportSize is a report's size on the wire.
const reportSize = 16

func (r report) bytes() []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, r.Count), r.Sum)
}

func parseReport(b []byte) (report, error) {
	if len(b) != reportSize {
		return report{}, fmt.Errorf("the receiver's report has %d bytes, want %d", len(b), reportSize)
	}
	return report{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}, nil
}

// want returns the report of a receiver that got n messages of that size, whose numbers add up to numbers.
func want(n, size int, numbers uint64) report {
	return report{Count: uint64(n), Sum: numbers + uint64(n)*(tail+uint64(size))}
}

// tally is a report that several goroutines add to.
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

// take returns the report so far and starts anew.
func (t *tally) take() report { return report{t.count.Swap(0), t.sum.Swap(0)} }

// roundTrips is a Worker for peers whose round trip is a function from the payload to the answer, which is good
// until the next call.
type roundTrips struct {
	size  int
	trip  func(payload []byte) ([]byte, error)
	close func() error

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
			return Took{}, fmt.Errorf("round trip %d: the answer is not what was sent (%d bytes)", w.next, len(answer))
		}
		now := time.Now()
		w.each = append(w.each, now.Sub(last))
		last = now
	}
	return Took{Total: last.Sub(start), Each: w.each}, nil
}

func (w *roundTrips) Close() error { return w.close() }

// stream is a Worker for peers that send one message after the other, from one goroutine or from many.
type stream struct {
	job Job
	// open makes what one goroutine sends with. It is called once for each of them, before the first message.
	open func() (sender, error)
	// report asks the receiver for what it has got since it was last asked, after all senders are done. Nil: each
	// sender's own report says it.
	report func() (report, error)
	close  func() error

	senders  []sender
	payloads [][]byte // of each sender
}

// sender is what one goroutine sends with.
type sender interface {
	// send sends the payload, which the caller changes afterwards.
	send(payload []byte) error
	// done is called after the last send of a Run: everything is on its way when it returns. It gives the receiver's report
	// where each sender has its own.
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
		part := func() { errs[i] = sendPart(s, w.payloads[i], i*n/goroutines, (i+1)*n/goroutines, &got) }
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
		return Took{}, fmt.Errorf("the receiver got %d of %d messages, checksum %#x, want %#x", got.Count, n, got.Sum, want.Sum)
	}
	return Took{Total: took}, nil
}

// sendPart sends the messages from one number up to another.
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

// sendFunc is a sender that has nothing to do at the end.
type sendFunc func(payload []byte) error

func (f sendFunc) send(payload []byte) error { return f(payload) }
func (f sendFunc) done() (report, error)     { return report{}, nil }

// each is for a sender that goroutines share.
func each(s sender) func() (sender, error) { return func() (sender, error) { return s, nil } }
