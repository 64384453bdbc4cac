package call

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// overhead is the cost of a message beside its bytes. So empty messages are bounded,
// too.
const overhead = 32

// exchange is a call on one of its sides, with its receiving and its sending half. The
// connection's mu guards it.
type exchange struct {
	c      *Conn
	id     uint64
	caller bool // this side opened the call
	over   bool // the peer has ended the call
	in     inbox
	out    outflow
	ends   waiters // for the end of the call
	trace  *traced // nil without Config.Trace, and after the report of the end
}

// inbox has the received messages until the program takes them. received, consumed and
// granted are sums of costs since the call's beginning.
type inbox struct {
	ready []*message // whole messages
	spare []*message // empty ones, for small messages
	part  *message   // the message under way, in parts, or nil
	got   int        // received bytes of it
	total int        // its size

	received uint64
	count    int64 // of messages in received
	consumed uint64
	granted  uint64 // the peer's credit
	creditAt int    // where in the queue its last credit frame has it, if
	creditIn uint64 // this is still the number of the queue

	waits  bool // a goroutine is in next
	demand bool // the program waits for a message, so a large one may get memory
	extra  int  // bytes of the pool in use by a large message
	queued bool // it waits for the pool, or is its taker

	end     bool // no more messages come
	discard bool // messages are dropped, because nobody takes them
	single  bool // only the end of the call is of interest, and not a message
	second  bool // a second message has come, in spite of single
	w       waiter
}

// outflow has this side's credit, and the large message under way.
type outflow struct {
	sent, credit uint64
	count        int64 // of messages in sent
	large        *sending
	cut          bool // a large message was given up after its first part
	waits        bool // a goroutine is in send
	end          bool // the end of the messages is queued
	w            waiter
}

// message is a received message, or a part of one.
type message struct{ b []byte }

// messagePool has messages of up to maxPart bytes, and largePool the larger ones. So a
// small message does not hold the memory of a large one.
var (
	messagePool = sync.Pool{New: func() any { return new(message) }}
	largePool   = sync.Pool{New: func() any { return new(message) }}
)

// A call keeps maxSpares messages with buffers of up to maxSpareSize bytes for its next
// ones. For messages that small, the pools take much of the time.
const (
	maxSpares    = 256
	maxSpareSize = 512
)

// newMessage returns an empty message, which will have size bytes.
func (in *inbox) newMessage(size int) *message {
	if n := len(in.spare); n > 0 && size <= maxSpareSize {
		m := in.spare[n-1]
		in.spare = in.spare[:n-1]
		return m
	}
	if size > maxPart {
		return largePool.Get().(*message)
	}
	return messagePool.Get().(*message)
}

// keep takes a decoded message.
func (in *inbox) keep(m *message) {
	if cap(m.b) > maxSpareSize || len(in.spare) == maxSpares {
		m.recycle()
		return
	}
	m.b = m.b[:0]
	in.spare = append(in.spare, m)
}

// maxKept is the largest buffer that goes back into a pool.
const maxKept = 32 << 20

func (m *message) recycle() {
	switch {
	case m == nil || cap(m.b) > maxKept:
		return
	case cap(m.b) > 2*maxPart:
		m.b = m.b[:0]
		largePool.Put(m)
	default:
		m.b = m.b[:0]
		messagePool.Put(m)
	}
}

// pool is the memory for large messages, in bytes. A large message gets memory for
// all of it or waits, in the order of the messages. So two cannot wait for each other.
type pool struct {
	free    int
	waiting []*exchange
	busy    bool      // a goroutine is in allocate, and all of waiting wait for it
	taker   *exchange // gets what it allocates; nil if its message was dropped
}

// receive adds a message, or a part of one, from a frame.
func (x *exchange) receive(h head, body []byte) error {
	in := &x.in
	if in.end {
		return errors.New("a message after the last one")
	}
	if h.has(flagValue) {
		if err := x.receiveValue(h, body); err != nil {
			return err
		}
	}
	if h.has(flagEnd) {
		if in.part != nil {
			return errors.New("the end of the messages within a message")
		}
		in.end = true
		x.notify()
	}
	return nil
}

func (x *exchange) receiveValue(h head, body []byte) error {
	in := &x.in
	more := h.has(flagMore)
	first := in.part == nil
	if first {
		if in.single && len(in.ready) > 0 {
			in.second = true
			x.c.signal(&in.w)
		}
		total := len(body)
		if more {
			if len(body) < 4 {
				return errors.New("a part without the size of its message")
			}
			total = int(binary.LittleEndian.Uint32(body))
			body = body[4:]
		}
		if total > x.c.cfg.MaxMessage {
			return fmt.Errorf("a message of %d bytes; the limit is %d", total, x.c.cfg.MaxMessage)
		}
		in.received += overhead
		in.count++
		in.part, in.got, in.total = in.newMessage(total), 0, total
	}
	in.received += uint64(len(body))
	size := in.got + len(body)
	switch {
	case in.received > in.granted:
		return fmt.Errorf("%d bytes on a call; the credit is %d", in.received, in.granted)
	case size > in.total, !more && size < in.total, more && size == in.total:
		return fmt.Errorf("parts of %d bytes for a message of %d", size, in.total)
	case more && len(body) == 0:
		return errors.New("an empty part")
	case h.op == opOpen, h.op == opResult, h.op == opStarted:
		if !first {
			return errors.New("a message within another")
		}
	}
	in.got = size
	if !in.discard {
		in.part.b = append(in.part.b, body...)
	}
	if more {
		x.grant()
		return nil
	}
	m := in.part
	in.part = nil
	if in.discard {
		m.recycle()
		return nil
	}
	in.ready = append(in.ready, m)
	x.notify()
	return nil
}

// notify reports a message to the receiving goroutine, unless only the end of the
// call is of interest.
func (x *exchange) notify() {
	if !x.in.single {
		x.c.signal(&x.in.w)
	}
}

func (x *exchange) signalAll() {
	x.c.signal(&x.in.w)
	x.c.signal(&x.out.w)
	x.ends.signalAll(x.c)
}

// grant gives the peer credit for the rest of a large message, if the program waits
// for it and has taken all others. So unread streams do not use up the pool.
func (x *exchange) grant() {
	in := &x.in
	if in.part == nil || !in.demand || in.queued || in.discard || len(in.ready) > 0 ||
		in.need() <= in.granted {
		return
	}
	in.queued = true
	x.c.pool.waiting = append(x.c.pool.waiting, x)
	x.c.grantWaiting()
}

// need returns the credit for the whole message under way.
func (in *inbox) need() uint64 { return in.received - uint64(in.got) + uint64(in.total) }

// grantWaiting gives memory of the pool to the messages that wait for it.
func (c *Conn) grantWaiting() {
	p := &c.pool
	for len(p.waiting) > 0 && !p.busy {
		x := p.waiting[0]
		in := &x.in
		extra := max(0, int(int64(in.need()-in.consumed-c.window))) // beside the window
		if extra > p.free {
			return
		}
		p.waiting = p.waiting[1:]
		p.free -= extra
		in.extra = extra
		if size := in.total; extra > 0 && cap(in.part.b) < size && c.state == stateOpen {
			p.busy, p.taker = true, x
			c.work.Go(func() { c.allocate(size) })
			return
		}
		in.queued = false
		x.sendCredit(in.need())
	}
}

// allocate makes the memory for the message of the pool's taker. That may take
// milliseconds, so it is done without mu. The peer gets its credit afterwards.
func (c *Conn) allocate(size int) {
	m := &message{make([]byte, 0, size)}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.pool.taker
	c.pool.busy, c.pool.taker = false, nil
	if x == nil {
		m.recycle()
	} else {
		m.b = append(m.b, x.in.part.b...)
		x.in.part, x.in.queued = m, false
		x.sendCredit(x.in.need())
	}
	c.grantWaiting()
	c.flushLocked(quick)
}

// giveBack returns memory to the pool and grants it to others.
func (x *exchange) giveBack() {
	x.c.pool.free += x.in.extra
	x.in.extra = 0
	x.c.grantWaiting()
}

// take returns the first message and removes it. The caller calls taken when it has
// decoded the message.
func (x *exchange) take() *message {
	in := &x.in
	m := in.ready[0]
	in.ready = append(in.ready[:0], in.ready[1:]...)
	return m
}

// taken gives the memory of a message of n bytes back, as credit.
func (x *exchange) taken(n int) { x.takenCost(overhead + n) }

// takenCost is taken for messages with a cost.
func (x *exchange) takenCost(cost int) {
	in := &x.in
	in.consumed += uint64(cost)
	if in.extra > 0 {
		x.giveBack()
	}
	limit := in.consumed + x.c.window
	if !in.end && !in.discard && limit > in.granted && limit-in.granted >= x.c.window/2 {
		x.sendCredit(limit)
	}
}

// charge counts a sent message of n bytes.
func (out *outflow) charge(n int) {
	out.sent += overhead + uint64(n)
	out.count++
}

// grantOne gives the peer credit for a message in one frame, because the program waits
// for one and has taken all others. The peer may wait for so much.
func (x *exchange) grantOne() {
	in := &x.in
	limit := in.consumed + x.c.window
	if in.part == nil && !in.end && limit > in.granted &&
		in.granted-in.consumed < min(x.c.window, overhead+maxPart) {
		x.sendCredit(limit)
	}
}

// sendCredit gives the peer credit. A credit that is still in the queue is replaced,
// so that a peer that does not read cannot make the queue grow.
func (x *exchange) sendCredit(limit uint64) {
	x.in.granted = limit
	wr := &x.c.writing
	if x.in.creditAt > 0 && x.in.creditIn == wr.taken && len(wr.out) > 0 {
		binary.LittleEndian.PutUint64(wr.out[x.in.creditAt:], limit)
		return
	}
	h := head{opCredit, 0, x.id}
	if x.caller {
		h.flags = flagCaller
	}
	x.c.queue(h, binary.LittleEndian.AppendUint64(nil, limit))
	x.in.creditAt, x.in.creditIn = len(wr.out)-8, wr.taken
}

// credit handles a credit frame.
func (x *exchange) credit(body []byte) error {
	if len(body) != 8 {
		return fmt.Errorf("a credit frame of %d bytes", len(body))
	}
	if limit := binary.LittleEndian.Uint64(body); limit > x.out.credit {
		x.out.credit = limit
		x.enterRing()
		x.c.signal(&x.out.w)
	}
	return nil
}

// drop forgets messages under way, in both directions. Whole messages stay.
func (x *exchange) drop() {
	x.in.part.recycle()
	x.in.part = nil
	x.leavePool()
	x.dropSending()
}

// leavePool gives the pool's memory back, unless a whole message uses it that the
// program will take. After the end of a stream nobody may take it.
func (x *exchange) leavePool() {
	if x.in.queued {
		x.in.queued = false
		waiting := &x.c.pool.waiting
		*waiting = slices.DeleteFunc(*waiting, func(other *exchange) bool { return other == x })
		if x.c.pool.taker == x {
			x.c.pool.taker = nil
		}
	}
	if len(x.in.ready) == 0 || x.over && !x.in.single {
		x.giveBack()
	}
}

// dropSending forgets the large message under way.
func (x *exchange) dropSending() {
	s := x.out.large
	if s == nil {
		return
	}
	x.out.large = nil
	x.out.cut = s.at > 0
	if s.inRing {
		ring := &x.c.writing.ring
		*ring = slices.DeleteFunc(*ring, func(other *exchange) bool { return other == x })
	}
}
