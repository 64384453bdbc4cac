// Package link carries the connections of one child, its output and the requests of
// its launcher over two pipes, such as the stdin and the stdout of ssh(1).
//
// Each stream has its own window, so a stream that nobody reads does not hold up the
// others. Both sides also send a ping from time to time; see [Config.Silence].
package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/internal/values"
)

// A frame is a kind (1 byte), a stream (2 bytes), the length of its body (4 bytes) and
// the body. Numbers are big-endian.
const headerSize = 7

type kind byte

const (
	kindPing    kind = iota + 1 // no body
	kindMessage                 // a value in CBOR
	kindOpen                    // the sender has opened the stream
	kindData                    // bytes of a stream
	kindCredit                  // 4 bytes: how much more data the stream takes
	kindEnd                     // the sender sends no more data on the stream
	kindReset                   // the sender neither sends nor takes more data
)

const (
	// chunk is the longest body of a data frame, in bytes.
	chunk = 64 << 10
	// window is how much data a stream may have in transit, in bytes.
	window = 1 << 20
	// maxMessage is the longest message, in bytes.
	maxMessage = 1 << 20
)

// ErrClosed is the error of a Link after Close.
var ErrClosed = errors.New("link closed")

// ErrSilent is the error of a Link if the other side has been silent for too long.
var ErrSilent = errors.New("no answer")

// Config has the settings of a Link.
type Config struct {
	// Message is called with each message of the other side, in CBOR. It is called
	// in the reading goroutine, and must neither block nor send.
	Message func(body []byte)
	// Open is called with each stream that the other side opens, under the same
	// rules. Nil refuses streams.
	Open func(*Stream)
	// Silence is how long the other side may be silent. Zero is no bound.
	Silence time.Duration
	// Peer reports, after a Silence, what is known about the other side's machine.
	// Nil knows nothing.
	Peer func() Verdict
	// Unknown is the bound for the silence while Peer knows nothing. Zero is
	// Silence.
	Unknown time.Duration
}

// Verdict is what is known about the other side's machine.
type Verdict int

// The verdicts.
const (
	Unknown Verdict = iota
	Alive           // its kernel answers, so the process is only stopped or slow
	Dead            // its kernel does not answer
)

// Link is one end of a connection. Make one with [New]. Its methods may be called
// concurrently.
type Link struct {
	cfg   Config
	r     io.Reader
	w     io.Writer
	out   chan *buffer // for the writing goroutine
	heard atomic.Int64 // frames that were read
	done  chan struct{}
	once  sync.Once
	err   error          // set before done is closed
	wg    sync.WaitGroup // the goroutines that read, write and beat

	mu      sync.Mutex // guards what follows; not held over input or output
	streams map[uint16]*Stream
	over    bool // the Link has ended
}

// New begins to read from r and to write to w. In the end the caller calls Close,
// closes r and w, and calls Wait.
func New(r io.Reader, w io.Writer, cfg Config) *Link {
	l := &Link{cfg: cfg, r: r, w: w, out: make(chan *buffer), done: make(chan struct{}),
		streams: make(map[uint16]*Stream)}
	l.wg.Go(l.write)
	l.wg.Go(func() { l.end(l.read()) })
	if cfg.Silence > 0 {
		l.wg.Go(l.beat)
	}
	return l
}

// Done returns a channel that is closed when the Link has ended.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns why the Link has ended, after Done is closed. The error is io.EOF if
// the other side has closed its pipe.
func (l *Link) Err() error { return l.err }

// Close ends the Link. Frames that were sent before have reached the pipe, or one of
// them is being written.
func (l *Link) Close() { l.end(ErrClosed) }

// Wait waits for the goroutines of the Link.
func (l *Link) Wait() { l.wg.Wait() }

func (l *Link) end(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
		l.mu.Lock()
		l.over = true
		l.mu.Unlock()
		for _, s := range l.all() {
			s.ended(true)
		}
	})
}

// all returns the streams.
func (l *Link) all() []*Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.streams))
}

// Send sends a message. It returns when the message is being written, and false when
// the Link has ended.
func (l *Link) Send(v any) bool {
	frame, err := Frame(v)
	if err != nil {
		l.end(err)
		return false
	}
	return l.SendFrame(frame)
}

// Frame returns the frame of a message. It can be written before there is a Link.
func Frame(v any) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, headerSize))
	if err := values.Encode(b, v); err != nil {
		return nil, err
	}
	frame := b.Bytes()
	putHeader(frame, kindMessage, 0, len(frame)-headerSize)
	return frame, nil
}

// SendFrame sends a frame of Frame, and overwrites it.
func (l *Link) SendFrame(frame []byte) bool {
	b := buffers.Get().(*buffer)
	b.large = frame
	return l.send(b)
}

// Decode decodes the body of a message into v.
func Decode(body []byte, v any) error { return values.Decode(body, v) }

// buffer is a frame to be written.
type buffer struct {
	n     int // bytes of the frame
	bytes [headerSize + chunk]byte
	large []byte // in place of bytes, for a message
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func newBuffer(k kind, stream uint16, body []byte) *buffer {
	b := buffers.Get().(*buffer)
	copy(b.bytes[headerSize:], body)
	b.seal(k, stream, len(body))
	return b
}

func (b *buffer) seal(k kind, stream uint16, size int) {
	putHeader(b.bytes[:], k, stream, size)
	b.n = headerSize + size
}

func putHeader(b []byte, k kind, stream uint16, size int) {
	b[0] = byte(k)
	binary.BigEndian.PutUint16(b[1:], stream)
	binary.BigEndian.PutUint32(b[3:], uint32(size))
}

// send gives a frame to the writing goroutine. It reports false when the Link has
// ended.
func (l *Link) send(b *buffer) bool {
	select {
	case l.out <- b:
		return true
	case <-l.done:
		return false
	}
}

// write writes frames until the Link has ended.
func (l *Link) write() {
	for {
		select {
		case b := <-l.out:
			data := b.bytes[:b.n]
			if b.large != nil {
				data = b.large
			}
			_, err := l.w.Write(data)
			if kind(data[0]) == kindMessage {
				clear(data) // it can have a secret
			}
			b.large = nil
			buffers.Put(b)
			if err != nil {
				l.end(err)
				return
			}
		case <-l.done:
			return
		}
	}
}

// read reads frames until an error.
func (l *Link) read() error {
	var header [headerSize]byte
	for {
		if _, err := io.ReadFull(l.r, header[:]); err != nil {
			return err
		}
		k, id := kind(header[0]), binary.BigEndian.Uint16(header[1:])
		size := binary.BigEndian.Uint32(header[3:])
		limit := uint32(chunk)
		if k == kindMessage {
			limit = maxMessage
		}
		if size > limit {
			return fmt.Errorf("a frame of %d bytes, the limit is %d", size, limit)
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(l.r, body); err != nil {
			return err
		}
		l.heard.Add(1)
		if err := l.take(k, id, body); err != nil {
			return err
		}
	}
}

// take handles a frame of the other side.
func (l *Link) take(k kind, id uint16, body []byte) error {
	switch k {
	case kindPing:
		return nil
	case kindMessage:
		l.cfg.Message(body)
		clear(body)
		return nil
	case kindOpen:
		if l.cfg.Open == nil {
			return errors.New("a stream that was not expected")
		}
		l.cfg.Open(l.Stream(id))
		return nil
	}
	l.mu.Lock()
	s := l.streams[id]
	l.mu.Unlock()
	if s == nil {
		return nil // it has ended on this side
	}
	switch k {
	case kindData:
		return s.arrived(body)
	case kindCredit:
		if len(body) != 4 {
			return errors.New("a malformed credit")
		}
		s.granted(int(binary.BigEndian.Uint32(body)))
	case kindEnd:
		s.ended(false)
	case kindReset:
		s.ended(true)
	default:
		return fmt.Errorf("a frame of kind %d", k)
	}
	return nil
}

// beat sends pings, and ends the Link after a silence.
func (l *Link) beat() {
	interval := max(l.cfg.Silence/6, time.Millisecond)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var heard int64
	var silence time.Duration
	last := time.Now()
	for tick := 0; ; tick++ {
		select {
		case <-ticker.C:
		case <-l.done:
			return
		}
		if tick%2 == 0 {
			b := newBuffer(kindPing, 0, nil)
			select {
			case l.out <- b:
			default: // a frame is being written, or the pipe is full
				buffers.Put(b)
			}
		}
		// After a stop of this process the frames of the other side are still unread.
		now := time.Now()
		silence += min(now.Sub(last), 2*interval)
		last = now
		if n := l.heard.Load(); n != heard {
			heard, silence = n, 0
		}
		if silence >= l.cfg.Silence && l.isDead(silence) {
			l.end(fmt.Errorf("%w for %v", ErrSilent, silence.Round(time.Millisecond)))
			return
		}
	}
}

func (l *Link) isDead(silence time.Duration) bool {
	verdict := Unknown
	if l.cfg.Peer != nil {
		verdict = l.cfg.Peer()
	}
	return verdict == Dead || verdict == Unknown && silence >= l.cfg.Unknown
}
