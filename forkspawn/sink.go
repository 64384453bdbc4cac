package forkspawn

import (
	"fmt"
	"io"
	"sync"
)

// sinkSize bounds, in bytes, what waits for a slow writer.
const sinkSize = 1 << 20

// sink passes bytes on to a writer that may be slow, without ever making the giver wait.
type sink struct {
	w    io.Writer
	done chan struct{} // closed when everything was written or lost

	mu      sync.Mutex // guards what follows; never held over a write to w
	wake    *sync.Cond
	buf     []byte
	dropped int64
	closed  bool
}

// newSink returns a sink, which the caller runs.
func newSink(w io.Writer) *sink {
	s := &sink{w: w, done: make(chan struct{})}
	s.wake = sync.NewCond(&s.mu)
	return s
}

// give takes a copy of p, or counts it as dropped.
func (s *sink) give(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.dropped > 0 || len(s.buf)+len(p) > sinkSize {
		s.dropped += int64(len(p))
	} else {
		s.buf = append(s.buf, p...)
	}
	s.wake.Signal()
}

// close lets run end when it has written what there is.
func (s *sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake.Signal()
}

func (s *sink) run() {
	defer close(s.done)
	var spare []byte
	var lost int64 // bytes that w has not taken, since it last took any
	var why error
	for {
		s.mu.Lock()
		for len(s.buf) == 0 && s.dropped == 0 && !s.closed {
			s.wake.Wait()
		}
		b, dropped, closed := s.buf, s.dropped, s.closed
		s.buf, s.dropped = spare[:0], 0
		s.mu.Unlock()
		if len(b) == 0 && dropped == 0 && closed {
			return
		}
		size := int64(len(b)) + dropped
		if dropped > 0 {
			b = fmt.Appendf(b, "\n[spawnwire: %d bytes dropped: the writer is too slow]\n", dropped)
		}
		spare = b
		var note []byte
		if lost > 0 {
			note = fmt.Appendf(nil, "\n[spawnwire: %d bytes lost: %v]\n", lost, why)
			b = append(note, b...)
		}
		n, err := s.w.Write(b)
		if n >= len(note) {
			lost = 0
		}
		if err != nil {
			// A full disk, say. The child must not suffer for it, and there may be room again later.
			lost, why = lost+max(0, size-int64(max(0, n-len(note)))), err
		}
	}
}
