package call

import (
	"context"
	"encoding/binary"
	"runtime"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// writing has the output of the connection. A sender adds its frame, and writes the
// whole queue unless another goroutine does. It does not wait for room in the
// socket: then a goroutine of the connection goes on. Whole frames in out come
// first, and then one part of a large message.
//
// The limit of the peer's calls and maxQueued bound the queue, also if the peer does
// not read.
type writing struct {
	out, spare []byte      // whole frames; spare is the memory for the next out
	ring       []*exchange // calls with a large message and credit for a part of it, in turn
	busy       bool        // a goroutine writes
	err        error       // of the first failed write; nothing is queued after it
	done       waiters     // for the end of the writing
	room       waiters     // for less than maxQueued bytes in out
	taken      uint64      // counts what was taken from out
	results    int         // the results in out: the peer counts their calls as open
}

const (
	// maxPart is the largest part of a large message, in bytes.
	maxPart = 32 << 10
	// quick is how often a goroutine with other things to do writes for others.
	quick = 4
	// maxQueued is how many bytes in out make the senders of streams wait.
	maxQueued = 256 << 10
	// maxSpare is the largest buffer that an idle connection keeps.
	maxSpare = 64 << 10
)

func (c *Conn) hasOutput() bool {
	return (len(c.writing.out) > 0 || len(c.writing.ring) > 0) && c.writing.err == nil
}

// queue adds a frame.
func (c *Conn) queue(h head, body ...[]byte) {
	if c.writing.err == nil && c.state == stateOpen {
		c.writing.out = appendFrame(c.writing.out, h, body...)
		c.countResult(h)
	}
}

// queueEncoded adds a whole frame with room for its headers.
func (c *Conn) queueEncoded(h head, encoded []byte) {
	if c.writing.err == nil && c.state == stateOpen {
		putHead(encoded, h)
		c.writing.out = append(c.writing.out, encoded...)
		c.countResult(h)
	}
}

func (c *Conn) countResult(h head) {
	if h.op == opResult {
		c.writing.results++
	}
}

// flushLocked writes the queue, unless another goroutine does. It does not
// wait. After as many writes as times a goroutine of the connection goes on. The
// caller has locked mu. It is unlocked during a write.
func (c *Conn) flushLocked(times int) {
	if c.writing.busy || !c.hasOutput() || c.state != stateOpen {
		return
	}
	c.writing.busy = true
	for ; c.hasOutput() && c.state == stateOpen; times-- {
		if times == 0 {
			c.work.Go(func() { c.writeAll(nil, nil) })
			return
		}
		buf := c.takeOutput()
		c.mu.Unlock()
		rest, err := c.frames.Start(buf)
		c.mu.Lock()
		if rest == nil {
			c.wrote(buf, err)
			continue
		}
		if c.state != stateOpen {
			// The channel is closed, or nobody else will finish the write.
			c.mu.Unlock()
			rest.Finish()
			c.mu.Lock()
			break
		}
		c.work.Go(func() { c.writeAll(rest, buf) })
		return
	}
	c.stopWriting()
}

// flushSoon has a goroutine of the connection write the queue, unless another does.
// So the sender of a stream can add more meanwhile.
func (c *Conn) flushSoon() {
	if c.writing.busy || !c.hasOutput() || c.state != stateOpen {
		return
	}
	c.writing.busy = true
	c.work.Go(func() { c.writeAll(nil, nil) })
}

// writeAll finishes a write, if there is one, and then writes everything.
func (c *Conn) writeAll(rest frame.Pending, buf []byte) {
	var err error
	if rest != nil {
		err = rest.Finish()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrote(buf, err)
	for c.hasOutput() && c.state == stateOpen {
		buf := c.takeOutput()
		c.mu.Unlock()
		rest, err := c.frames.Start(buf)
		if rest != nil {
			err = rest.Finish()
		}
		c.mu.Lock()
		c.wrote(buf, err)
	}
	c.stopWriting()
}

func (c *Conn) stopWriting() {
	c.writing.busy = false
	c.writing.done.signalAll(c)
}

// yieldLocked lets the callers of other calls run. Then one write has the frames of
// many. The caller will call flushLocked.
func (c *Conn) yieldLocked() {
	if len(c.ours) > 1 && !c.writing.busy {
		c.writing.busy = true
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
		c.writing.busy = false
	}
}

// takeOutput returns the bytes of the next write.
func (c *Conn) takeOutput() []byte {
	wr := &c.writing
	if len(wr.ring) > 0 {
		x := wr.ring[0]
		wr.ring = wr.ring[1:]
		x.appendPart()
	}
	buf := wr.out
	if wr.spare == nil && cap(buf) > maxSpare {
		wr.spare = *largeOutputs.Get().(*[]byte)
	}
	wr.out, wr.spare = wr.spare[:0], nil
	wr.results = 0
	wr.taken++
	wr.room.signalAll(c)
	return buf
}

// largeOutputs has output buffers larger than maxSpare, which streams use.
var largeOutputs = sync.Pool{New: func() any { return new([]byte) }}

// writeFailure is how long the reading may take to find the reason why a write has
// failed. A peer that ends in order has sent results and a goodbye before.
const writeFailure = time.Second

// wrote records the result of a write of buf.
func (c *Conn) wrote(buf []byte, err error) {
	wr := &c.writing
	switch {
	case cap(buf) > maxSpare && cap(buf) <= maxKept:
		large := buf[:0] // so that buf itself does not escape
		largeOutputs.Put(&large)
	case cap(buf) <= maxSpare && cap(buf) > cap(wr.spare):
		wr.spare = buf[:0]
	}
	if err == nil || wr.err != nil {
		return
	}
	wr.err = err
	wr.out, wr.ring = nil, nil
	if c.state != stateOpen {
		return
	}
	c.work.Go(func() {
		select {
		case <-c.dead:
			return
		case <-time.After(writeFailure):
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failLocked(err)
	})
}

// waitWritten waits until the whole queue is written. The caller has
// locked mu.
func (c *Conn) waitWritten(ctx context.Context) error {
	c.flushLocked(quick)
	var w waiter
	for (c.writing.busy || c.hasOutput()) && c.state == stateOpen {
		c.writing.done.add(&w)
		err := c.waitLocked(ctx, &w)
		c.writing.done.remove(&w)
		if err != nil {
			return err
		}
		c.flushLocked(quick)
	}
	if c.writing.err != nil {
		return c.writing.err
	}
	if c.state != stateOpen {
		return transport.ErrChannelClosed
	}
	return nil
}

// sending is a large message on its way in parts.
type sending struct {
	payload []byte // the whole message
	at      int    // queued bytes of it
	flags   flags  // of its last part
	inRing  bool
}

// startSending begins to send a large message in parts. It takes the payload until
// the sending ends, as out.large then is nil.
func (x *exchange) startSending(payload []byte, last flags) {
	x.out.large = &sending{payload: payload, flags: last}
	x.enterRing()
}

// enterRing puts the call into the ring if it has credit for a part.
func (x *exchange) enterRing() {
	s := x.out.large
	if s == nil || s.inRing || x.partSize() <= 0 || x.c.writing.err != nil {
		return
	}
	s.inRing = true
	x.c.writing.ring = append(x.c.writing.ring, x)
}

// partSize returns the size of the next part within the credit.
func (x *exchange) partSize() int {
	s := x.out.large
	credit := int64(x.out.credit - x.out.sent)
	if s.at == 0 {
		credit -= overhead
	}
	return int(min(credit, maxPart, int64(len(s.payload)-s.at)))
}

// appendPart queues the next part of the large message.
func (x *exchange) appendPart() {
	s := x.out.large
	if s == nil {
		return // it was given up
	}
	s.inRing = false
	x.queuePart(s)
	if x.out.large == nil {
		x.c.signal(&x.out.w)
	}
	x.enterRing()
}

// queueParts queues all parts of a message that fits the credit.
func (x *exchange) queueParts(payload []byte, last flags) {
	s := &sending{payload: payload, flags: last}
	for x.out.large = s; x.out.large != nil; {
		x.queuePart(s)
	}
}

// queuePart queues the next part of s. After the last one x has no large message.
func (x *exchange) queuePart(s *sending) {
	n := x.partSize()
	h := head{opData, flagValue | flagMore, x.id}
	if x.caller {
		h.flags |= flagCaller
	}
	var total []byte
	if s.at == 0 {
		total = binary.LittleEndian.AppendUint32(nil, uint32(len(s.payload)))
		x.out.charge(0)
	}
	part := s.payload[s.at : s.at+n]
	s.at += n
	x.out.sent += uint64(n)
	if s.at == len(s.payload) {
		h.flags = h.flags&^flagMore | s.flags
		x.out.large = nil
	}
	x.c.queue(h, total, part)
}
