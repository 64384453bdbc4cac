package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
	"github.com/spawnwire/spawnwire/internal/slab"
)

// The sizes of a channel's read buffer. docs/design/007 explains why a buffer comes
// from a pool where a read can be tried without blocking, and is kept elsewhere.
const (
	pooledBufferSize = 64<<10 + 512 // a header and a message of 64 KiB fit
	keptBufferSize   = 8 << 10
)

// firstRead is how much a channel reads into its buffer at a time, until it finds a
// stream of small messages. So it copies little of a large message, and reads the
// rest to its destination.
const firstRead = 8 << 10

// firstBody is the first allocation for a large body. It doubles as bytes arrive, so
// a false length in a header does not cost memory.
const firstBody = 16 << 10

// reader is the receiving half of a Channel.
//
// The goroutine that holds turn owns all other fields. Other goroutines may read err
// after ended is closed.
type reader struct {
	turn turn
	conn net.Conn
	intr interrupter

	// The buffer. buf[r:w] has arrived and is not used yet.
	buf    []byte // nil if nothing is buffered
	r, w   int
	pooled *[pooledBufferSize]byte // the memory of buf, if it is from the pool
	room   int                     // the length of buf when there is one
	ask    int                     // how much to read at a time

	// The frame that was begun.
	pending bool // its header was read, and its body is not used up
	kind    frame.Kind
	size    int      // of its body, without the part that skip dropped
	body    *body    // what was read of its body and is not in buf; nil if nothing
	lent    *body    // what Read or RecvBorrowed returned, until the next receive
	shared  slab.Ref // where the body is in shared memory; the zero Ref if it is not there
	skipped int64    // bytes of extension frames since the last frame of a known kind

	// The read under way.
	raw     syscall.RawConn    // for reads that do not block; nil where they are impossible
	tryRead func(uintptr) bool // readRaw
	rights  *rights            // descriptors may come; nil if none are expected
	ring    *slab.RingIn       // where the peer writes to; nil while that is the socket
	ctx     context.Context
	into    []byte // the destination; nil means buf
	need    int    // the fewest bytes that fill still waits for
	got     int
	failed  error

	err   error         // of every further receive, see end
	ended chan struct{} // closed when err is set
}

func (rd *reader) init(conn net.Conn, setDeadline func(time.Time) error) {
	rd.conn = conn
	rd.turn = newTurn()
	rd.intr.setDeadline = setDeadline
	rd.room, rd.ask = keptBufferSize, firstRead
	rd.ended = make(chan struct{})
}

// fill reads until at least n bytes are buffered. n is at most rd.room.
func (c *Channel) fill(ctx context.Context, n int) error {
	rd := &c.rd
	if rd.r == rd.w {
		rd.r, rd.w = 0, 0
	}
	if rd.room-rd.r < n {
		rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.r = 0
	}
	for rd.w-rd.r < n {
		rd.need = n - (rd.w - rd.r)
		m, err := c.read(ctx, nil)
		if err != nil {
			return err
		}
		rd.w += m
	}
	return nil
}

// read reads from the connection to p or, if p is nil, after the buffered bytes. If
// it fails, it has read nothing. An error ends the receiving side, except the end of
// ctx and a deadline that the caller has set on the connection.
func (c *Channel) read(ctx context.Context, p []byte) (int, error) {
	rd := &c.rd
	defer rd.intr.disarmUnlessRepeated()
	for {
		n, err := rd.readOnce(ctx, p)
		if n > 0 {
			if c.closing.Load() {
				// Close drops input, so bytes may be missing before these.
				return 0, rd.end(ErrChannelClosed)
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		if !isTimeout(err) {
			rd.end(c.readError(err))
		}
		if ctx.Err() != nil {
			return 0, neterr.Context(ctx) // also if the stream ended at the same moment
		}
		if rd.err == nil {
			return 0, err // a deadline that the caller set on the connection
		}
		return 0, rd.err
	}
}

// readOnce makes one call of read.
func (rd *reader) readOnce(ctx context.Context, p []byte) (n int, err error) {
	switch {
	case rd.ring != nil:
		n, err = rd.readRing(ctx, p)
	case rd.raw == nil:
		rd.into = p
		rd.intr.arm(ctx)
		n, err = rd.conn.Read(rd.dest())
	default:
		rd.intr.disarmUnlessFor(ctx)
		rd.ctx, rd.into, rd.got, rd.failed = ctx, p, 0, nil
		err = rd.raw.Read(rd.tryRead)
		n, rd.ctx = rd.got, nil
		switch {
		case err != nil:
		case rd.failed != nil:
			err = rd.failed
		case n == 0:
			err = io.EOF
		}
	}
	if p == nil && n >= rd.ask {
		rd.ask = rd.room // there are many small messages
	}
	rd.into = nil
	return n, err
}

// dest returns the destination of the read under way.
func (rd *reader) dest() []byte {
	if rd.into != nil {
		return rd.into
	}
	if rd.buf == nil {
		if rd.raw != nil {
			rd.pooled = pooledBuffers.Get().(*[pooledBufferSize]byte)
			rd.buf = rd.pooled[:]
		} else {
			rd.buf = make([]byte, rd.room)
		}
	}
	return rd.buf[rd.w:min(rd.room, rd.w+max(rd.ask, rd.need))]
}

// hasFrame reports whether a whole frame is buffered.
func (rd *reader) hasFrame() bool {
	n := rd.w - rd.r
	return n >= headerSize && n-lengthSize >= int(binary.LittleEndian.Uint32(rd.buf[rd.r:]))
}

// release gives an empty buffer back to the pool.
func (rd *reader) release() {
	if rd.pooled != nil && rd.r == rd.w {
		pooledBuffers.Put(rd.pooled)
		rd.pooled, rd.buf, rd.r, rd.w = nil, nil, 0, 0
	}
}

// finish ends the pending frame.
func (rd *reader) finish() {
	rd.pending, rd.shared = false, slab.Ref{}
	if rd.body != nil {
		putBody(rd.body)
		rd.body = nil
	}
}

// lend ends the pending frame and keeps its body until the next receive.
func (rd *reader) lend() {
	rd.lent, rd.body = rd.body, nil
	rd.finish()
}

// end sets the error of every further receive, unless there is one already, and
// returns it.
func (rd *reader) end(err error) error {
	if rd.err == nil {
		rd.err = err
		close(rd.ended)
	}
	return rd.err
}

// ending returns the error that ended the receiving side, or nil. Any goroutine may
// call it.
func (c *Channel) ending() error {
	select {
	case <-c.rd.ended:
		return c.rd.err
	default:
		return nil
	}
}

func (c *Channel) readError(err error) error {
	if c.closing.Load() {
		return ErrChannelClosed
	}
	if neterr.Reset(err) && !c.death.isDead() {
		err = resetError{}
	} else {
		err = c.netError(err)
	}
	if errors.Is(err, ErrPeerGone) && (c.rd.pending || c.rd.r != c.rd.w) {
		return fmt.Errorf("%w, in the middle of a frame", err)
	}
	return err
}

// body is the memory of a body that does not fit into a read buffer.
type body struct{ b []byte }

var bodies = sync.Pool{New: func() any { return new(body) }}

// pooledBuffers has the read buffers that no channel uses.
var pooledBuffers = sync.Pool{New: func() any { return new([pooledBufferSize]byte) }}

// takeBody returns b or, if b is nil, an empty body from the pool.
func takeBody(b *body) *body {
	if b != nil {
		return b
	}
	b = bodies.Get().(*body)
	if cap(b.b) < firstBody {
		b.b = make([]byte, 0, firstBody)
	}
	return b
}

func putBody(b *body) {
	if cap(b.b) <= maxKept {
		b.b = b.b[:0]
		bodies.Put(b)
	}
}
