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
	done chan struct{} // closed when everything was written, or cannot be

	mu      sync.Mutex // guards what follows; never held over a write to w
	wake    *sync.Cond
	buf     []byte
	dropped int64
	closed  bool
}

func newSink(w io.Writer) *sink {
	s := &sink{w: w, done: make(chan struct{})}
	s.wake = sync.NewCond(&s.mu)
	go s.run()
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
		if dropped > 0 {
			b = fmt.Appendf(b, "\n[spawnwire: %d bytes dropped: the writer is too slow]\n", dropped)
		}
		if _, err := s.w.Write(b); err != nil {
			// Nobody reads it any more; the child must not suffer for it.
			s.mu.Lock()
			s.closed, s.buf = true, nil
			s.mu.Unlock()
			return
		}
		spare = b
	}
}
