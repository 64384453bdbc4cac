//go:build unix

package capture

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/wait"
)

const (
	sinkSize = 1 << 20     // bounds the buffer for a slow writer, in bytes
	lineSize = 64 << 10    // the writer gets a longer line in parts
	lineWait = time.Second // for the rest of a line, before the writer gets its start
)

// sink writes to a slow writer without blocking its own callers. The writer
// gets whole lines, so children can share a writer.
type sink struct {
	w    io.Writer
	all  bool          // nothing is dropped; the owner gives nothing while it is full
	wake chan struct{} // has room for one
	room chan struct{} // has room for one; gets a value when the buffer was emptied
	done chan struct{} // closed when everything was written or lost

	mu      sync.Mutex // guards what follows; never held over a write to w
	buf     []byte
	given   time.Time // when buf last grew
	lost    int64     // bytes that the writer has not got and will not get
	taken   int       // bytes of the write that is under way
	dropped int64     // bytes of the current gap in the stream
	gap     gapState
	seek    bool // with gapFirst: bytes were dropped again after the gap
	closed  bool
	idle    chan struct{} // closed while nothing is left to write; replaced by give
	writing time.Time     // when the write that is under way began; zero if none is
}

type gapState int

const (
	noGap    gapState = iota
	gapOpen           // buf ends where the gap begins; everything is dropped
	gapSeeks          // the rest of a line is dropped too
	gapFirst          // buf begins where the gap ended
)

// newSink returns a sink. The caller calls run in a goroutine.
func newSink(w io.Writer, all bool) *sink {
	s := &sink{w: withoutSIGPIPE(w), all: all,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		done: make(chan struct{}), idle: make(chan struct{})}
	close(s.idle)
	return s
}

// give copies p into the buffer, or drops it if the buffer is full.
func (s *sink) give(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(p) == 0 {
		return
	}
	if s.gap == gapSeeks {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			s.lose(len(p))
			return
		}
		s.lose(end)
		p, s.gap = p[end:], gapFirst
	}
	switch {
	case s.gap == gapOpen, s.seek:
		s.drop(p)
	case !s.all && len(s.buf)+len(p) > sinkSize:
		fits := p[:min(len(p), max(0, sinkSize-len(s.buf)))]
		fits = fits[:bytes.LastIndexByte(fits, '\n')+1]
		if begun := bytes.LastIndexByte(s.buf, '\n') + 1; len(fits) == 0 && begun > 0 {
			s.drop(s.buf[begun:]) // the start of a line whose end does not fit
			s.buf = s.buf[:begun]
		}
		s.buf = append(s.buf, fits...)
		s.drop(p[len(fits):])
	default:
		s.buf = append(s.buf, p...)
		s.given = time.Now()
	}
	if wait.Closed(s.idle) {
		s.idle = make(chan struct{})
	}
	s.notify()
}

// drop begins a gap, or makes it larger. If the buffer begins with an earlier
// gap, the two are counted as one. The caller holds s.mu.
func (s *sink) drop(p []byte) {
	s.lose(len(p))
	if s.gap == gapFirst {
		s.seek = true
	} else {
		s.gap = gapOpen
	}
}

// lose counts bytes of a gap. The caller holds s.mu.
func (s *sink) lose(n int) {
	s.dropped += int64(n)
	s.lost += int64(n)
}

// notify wakes run.
func (s *sink) notify() { put(s.wake) }

// put sends a value to a channel with room for one, if it has none.
func put(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// full reports whether a sink that drops nothing should get no more.
func (s *sink) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all && len(s.buf) >= sinkSize
}

// lostBytes returns how many bytes the writer has not got and will not get.
func (s *sink) lostBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// patience is how long end waits for the writer.
func (s *sink) patience() time.Duration {
	if s.all {
		return AllTimeout
	}
	return WriterTimeout
}

// abandon counts what the writer has not got yet as lost.
func (s *sink) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += int64(len(s.buf) + s.taken)
	s.buf, s.taken = nil, 0
}

// close makes run return after it has written the buffer.
func (s *sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.notify()
}

// take returns the next bytes for the writer, and the size of a gap before
// (first) or after them. If there are neither, it returns the time to wait for
// the rest of a line, or 0 to wait for give or close.
func (s *sink) take(into []byte) (b []byte, dropped int64, first, over bool, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing, s.taken = time.Time{}, 0
	n := bytes.LastIndexByte(s.buf, '\n') + 1
	switch rest := lineWait - time.Since(s.given); {
	case s.closed, s.gap == gapOpen:
		n = len(s.buf)
	case n > 0 || len(s.buf) == 0:
	case len(s.buf) >= lineSize, rest <= 0:
		n = len(s.buf)
	default:
		pause = rest
	}
	switch n {
	case 0: // into stays the caller's
	case len(s.buf):
		b, s.buf = s.buf, into[:0]
	default:
		b = append(into[:0], s.buf[:n]...)
		s.buf = append(s.buf[:0], s.buf[n:]...)
	}
	switch {
	case s.gap == gapFirst:
		dropped, first = s.dropped, true
		s.dropped, s.gap = 0, noGap
		if s.seek {
			s.gap, s.seek = gapSeeks, false
		}
	case s.gap != noGap && s.closed:
		dropped = s.dropped
		s.dropped, s.gap = 0, noGap
	case s.gap == gapOpen:
		s.gap = gapSeeks
	}
	if len(b) > 0 || dropped > 0 {
		s.writing, s.taken = time.Now(), len(b)
		put(s.room)
		return b, dropped, first, false, 0
	}
	if len(s.buf) == 0 && !wait.Closed(s.idle) {
		close(s.idle)
	}
	return nil, 0, false, s.closed, pause
}

// flush waits until the writer has the whole buffer, for WriterTimeout at most.
// The writer gets the start of an unfinished line, too.
func (s *sink) flush() {
	s.mu.Lock()
	idle, bound := s.idle, WriterTimeout
	if !s.writing.IsZero() {
		bound -= time.Since(s.writing)
	}
	s.given = time.Time{} // the last line is not going to be finished
	s.notify()
	s.mu.Unlock()
	wait.For(context.Background(), idle, bound)
}

// refuse counts bytes that w has not taken.
func (s *sink) refuse(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += n
	s.taken = 0
}

// run writes the buffer until close. It reports dropped and lost bytes by lines
// of its own.
func (s *sink) run() {
	defer close(s.done)
	var buf []byte
	var lost int64 // bytes that w has refused since its last success
	var why error
	timer := time.NewTimer(lineWait)
	defer timer.Stop()
	for {
		b, dropped, first, over, pause := s.take(buf)
		if over {
			return
		}
		if len(b) == 0 && dropped == 0 {
			var more <-chan time.Time
			if pause > 0 {
				timer.Reset(pause)
				more = timer.C
			}
			select {
			case <-s.wake:
			case <-more:
			}
			continue
		}
		size := int64(len(b)) + dropped
		var note []byte
		if lost > 0 {
			note = fmt.Appendf(nil, "\n[spawnwire: %d bytes lost: %v]\n", lost, why)
		}
		noted := len(note)
		if dropped > 0 {
			gap := fmt.Appendf(nil,
				"\n[spawnwire: %d bytes dropped: the writer is too slow]\n", dropped)
			if first {
				b = append(gap, b...)
			} else {
				b = append(b, gap...)
			}
		}
		buf = b
		if noted > 0 {
			b = append(note, b...)
		}
		n, err := s.w.Write(b)
		if n >= noted {
			lost = 0
		}
		if err != nil {
			// For example, the disk is full. This must not affect the child, and
			// there may be room again later.
			lost, why = lost+max(0, size-int64(max(0, n-noted))), err
			s.refuse(max(0, size-dropped-int64(max(0, n-noted))))
		}
	}
}
