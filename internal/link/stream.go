package link

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is what a stream connects.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Stream is one of the streams of a Link. [Link.Stream] makes one. Serve, SendFrom or
// ReceiveInto must be called once.
type Stream struct {
	l  *Link
	id uint16

	mu      sync.Mutex // guards what follows; not held over input or output
	changed sync.Cond
	data    [][]byte // arrived, and not taken yet
	size    int      // bytes in data
	taken   int      // bytes that were taken since the last credit
	credit  int      // bytes that may be sent
	end     bool     // no more data arrives
	reset   bool     // nobody takes data any more
	sent    bool     // this side sends no more
}

// Stream returns the stream of a number, and makes it if it is new. The other side
// must know the number too: from its program, or from Open.
func (l *Link) Stream(id uint16) *Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[id]
	if s == nil {
		s = &Stream{l: l, id: id, credit: window, end: l.over, reset: l.over}
		s.changed.L = &s.mu
		l.streams[id] = s
	}
	return s
}

// Open makes the stream known to the other side.
func (s *Stream) Open() { s.l.send(newBuffer(kindOpen, s.id, nil)) }

// Serve carries bytes between the stream and conn, in both directions, and closes
// conn. It returns when both directions have ended. When the Link has ended or the
// other side's connection has failed, Serve first writes the data that has arrived.
func (s *Stream) Serve(conn Conn) {
	defer s.forget()
	var sending sync.WaitGroup
	sending.Go(func() { s.send(conn) })
	if s.receive(conn) {
		conn.CloseWrite()
		s.awaitSent()
	} else {
		s.l.send(newBuffer(kindReset, s.id, nil))
	}
	conn.Close()
	sending.Wait()
}

// SendFrom sends the data of r until its end.
func (s *Stream) SendFrom(r io.Reader) {
	defer s.forget()
	s.send(r)
}

// ReceiveInto writes the stream's data to w, until the other side ends the stream or the
// Link has ended. If a write fails, the rest is dropped.
func (s *Stream) ReceiveInto(w io.Writer) {
	defer s.forget()
	s.sentAll()
	if !s.receive(w) {
		s.receive(io.Discard)
	}
}

// send sends the data of r until its end, an error, or a reset.
func (s *Stream) send(r io.Reader) {
	defer func() {
		s.l.send(newBuffer(kindEnd, s.id, nil))
		s.sentAll()
	}()
	for {
		n := s.awaitCredit()
		if n == 0 {
			return
		}
		b := buffers.Get().(*buffer)
		n, err := r.Read(b.bytes[headerSize : headerSize+min(n, chunk)])
		if n > 0 {
			s.spend(n)
			b.seal(kindData, s.id, n)
			if !s.l.send(b) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// sentAll notes that this side sends no more.
func (s *Stream) sentAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = true
	s.changed.Broadcast()
}

// awaitCredit waits until data may be sent, and returns how much. It returns 0 after
// a reset.
func (s *Stream) awaitCredit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.credit == 0 && !s.reset {
		s.changed.Wait()
	}
	if s.reset {
		return 0
	}
	return s.credit
}

func (s *Stream) spend(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit -= n
}

// receive writes the stream's data to w until the end, and reports whether all was
// written.
func (s *Stream) receive(w io.Writer) bool {
	for {
		p := s.next()
		if p == nil {
			return true
		}
		if _, err := w.Write(p); err != nil {
			return false
		}
		s.allow(len(p))
	}
}

// next waits for data and returns it, or nil at the end.
func (s *Stream) next() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.data) == 0 && !s.end {
		s.changed.Wait()
	}
	if len(s.data) == 0 {
		return nil
	}
	p := s.data[0]
	s.data = s.data[1:]
	s.size -= len(p)
	return p
}

// allow lets the other side send n bytes more. Few frames carry the credit of many
// writes.
func (s *Stream) allow(n int) {
	s.mu.Lock()
	s.taken += n
	credit := 0
	if s.taken >= window/4 && !s.end {
		credit, s.taken = s.taken, 0
	}
	s.mu.Unlock()
	if credit > 0 {
		s.l.send(newBuffer(kindCredit, s.id, binary.BigEndian.AppendUint32(nil, uint32(credit))))
	}
}

// awaitSent waits until this side has sent everything, or nobody takes it.
func (s *Stream) awaitSent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.sent && !s.reset {
		s.changed.Wait()
	}
}

func (s *Stream) forget() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	delete(s.l.streams, s.id)
}

// arrived takes data of the other side, in the reading goroutine.
func (s *Stream) arrived(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size+s.taken+len(p) > window {
		return fmt.Errorf("stream %d: more data than its window", s.id)
	}
	if len(p) > 0 {
		s.data, s.size = append(s.data, p), s.size+len(p)
		s.changed.Broadcast()
	}
	return nil
}

// granted takes credit of the other side.
func (s *Stream) granted(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit += n
	s.changed.Broadcast()
}

// ended notes that no more data arrives and, with reset, that none is taken.
func (s *Stream) ended(reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end, s.reset = true, s.reset || reset
	s.changed.Broadcast()
}

// AwaitSent waits until all streams have sent what there was to send, or bound has
// passed.
func (l *Link) AwaitSent(bound time.Duration) {
	l.await(bound, func(s *Stream) bool { return s.sent || s.reset })
}

// AwaitEnds waits until each stream gets no more data, or sends no more.
func (l *Link) AwaitEnds() {
	l.await(0, func(s *Stream) bool { return s.end || s.sent })
}

// await waits until is reports true for each stream that there is now, the Link has
// ended or bound has passed. Zero is no bound.
func (l *Link) await(bound time.Duration, is func(*Stream) bool) {
	var over atomic.Bool
	streams := l.all()
	if bound > 0 {
		defer time.AfterFunc(bound, func() {
			over.Store(true)
			for _, s := range streams {
				s.mu.Lock()
				s.changed.Broadcast()
				s.mu.Unlock()
			}
		}).Stop()
	}
	for _, s := range streams {
		s.mu.Lock()
		for !is(s) && !s.reset && !over.Load() {
			s.changed.Wait()
		}
		s.mu.Unlock()
	}
}
