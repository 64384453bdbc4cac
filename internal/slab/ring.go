package slab

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// RingSize is how many bytes of one direction a ring holds.
const RingSize = 256 << 10

// The words of a side in its own page. docs/PROTOCOL-shm.md explains them.
const (
	positionAt = 0  // a uint64: how many bytes it has written, or read, so far
	waitAt     = 64 // a uint32: the number of its last wait, and isWaiting
)

// isWaiting is the bit of the word at waitAt that is set while the side waits.
const isWaiting = 1

// ErrRing is the error of a ring whose peer has written an impossible position.
var ErrRing = errors.New("an impossible position in a ring")

// ringSide is what both ends of one direction have in common. A side writes its own words
// and only reads the peer's. It waits in Go's poller, for its bell: an eventfd(2) that the
// peer rings.
//
// The side that waits does not use up the bell. A ring is a read of 1 from a large counter,
// with RWF_NOWAIT: the poller notices it, and it never blocks, whatever the peer does to the
// bell. A write could block: the peer can fill the counter and make the file block.
type ringSide struct {
	mu       sync.Mutex     // guards what follows; held over a copy, and over no wait
	off      bool           // there is no ring, and there will be none
	mappings [][]byte       // nil if there are none
	own      unsafe.Pointer // this side's words; nil if there are none
	peers    unsafe.Pointer // the peer's words
	data     []byte         // the bytes
	home     *uint64        // has owner in the process that has mapped the ring
	owner    uint64
	position uint64   // what own has
	wait     uint32   // what own has
	answered uint32   // the peer's wait that this side has ended last
	peerBell int      // rung by this side
	bell     *os.File // rung by the peer
	poller   syscall.RawConn

	// For the goroutine that reads, or writes.
	seen uint64 // the peer's position when there was nothing to do
	over func(uintptr) bool

	// The reasons to end a wait.
	ended       atomic.Bool // the peer is gone
	flags       sync.Mutex  // guards interrupted, bell and the deadline of bell
	interrupted bool
}

func positionOf(words unsafe.Pointer) *uint64 { return (*uint64)(unsafe.Add(words, positionAt)) }
func waitOf(words unsafe.Pointer) *uint32     { return (*uint32)(unsafe.Add(words, waitAt)) }

// usable reports whether there is a ring. A child that is forked without exec has none of
// its parent's. The caller holds s.mu.
func (s *ringSide) usable() bool {
	if s.own != nil && atomic.LoadUint64(s.home) != s.owner {
		s.own, s.mappings, s.off = nil, nil, true
	}
	return s.own != nil
}

// open begins the use of a mapped ring. It takes over the descriptors, also if it fails.
func (s *ringSide) open(own, peers, data []byte, bell, peerBell int) (err error) {
	file, poller, err := newBell(bell)
	if err != nil {
		closeAll([]int{peerBell})
		return err
	}
	s.flags.Lock()
	s.bell, s.poller = file, poller
	s.setDeadline() // there may be a reason already
	s.flags.Unlock()
	s.peerBell, s.data, s.mappings = peerBell, data, [][]byte{own, peers}
	s.own = unsafe.Pointer(unsafe.SliceData(own))
	s.peers = unsafe.Pointer(unsafe.SliceData(peers))
	s.over = s.isOver
	return nil
}

// advance publishes that n more bytes are written, or read. It rings for the peer if wake
// is true and the peer waits, but once for each wait.
func (s *ringSide) advance(n int, wake bool) {
	s.position += uint64(n)
	atomic.StoreUint64(positionOf(s.own), s.position)
	if !wake {
		return
	}
	if w := atomic.LoadUint32(waitOf(s.peers)); w&isWaiting != 0 && w != s.answered {
		s.answered = w
		_ = ring(s.peerBell) // an error is the peer's fault
	}
}

// publish begins a wait, or ends it.
func (s *ringSide) publish(waits uint32) {
	s.wait = (s.wait+2)&^isWaiting | waits
	atomic.StoreUint32(waitOf(s.own), s.wait)
}

// isOver is for RawConn.Read: it returns false if the wait has to go on. The wait is
// published before the look at the peer's position, and the peer does both the other way
// round. So one of them sees the other.
func (s *ringSide) isOver(uintptr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usable() {
		return true
	}
	s.publish(isWaiting)
	if atomic.LoadUint64(positionOf(s.peers)) == s.seen && !s.ended.Load() {
		return false
	}
	s.publish(0)
	return true
}

// Wait waits after a Read or Write that could do nothing. It returns nil if another one may
// do more, os.ErrDeadlineExceeded after Interrupt(true), and net.ErrClosed after Close.
func (s *ringSide) Wait() error {
	s.mu.Lock()
	usable := s.usable()
	s.mu.Unlock()
	if !usable {
		return net.ErrClosed
	}
	err := s.poller.Read(s.over)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return net.ErrClosed
	case s.ended.Load():
		return nil
	}
	return err
}

// aLongTimeAgo is a deadline in the past, which makes a wait return.
var aLongTimeAgo = time.Unix(1, 0)

// Interrupt makes this wait, and every further one, return until Interrupt(false).
func (s *ringSide) Interrupt(on bool) {
	s.flags.Lock()
	defer s.flags.Unlock()
	s.interrupted = on
	s.setDeadline()
}

// End reports that the peer is gone: what it has written can be read, and no more comes.
func (s *ringSide) End() {
	s.flags.Lock()
	defer s.flags.Unlock()
	s.ended.Store(true)
	s.setDeadline()
}

// setDeadline ends a wait if there is a reason. The caller holds s.flags.
func (s *ringSide) setDeadline() {
	switch {
	case s.bell == nil:
	case s.interrupted || s.ended.Load():
		s.bell.SetReadDeadline(aLongTimeAgo)
	default:
		s.bell.SetReadDeadline(time.Time{})
	}
}

// close unmaps the ring and closes its descriptors. It reports whether there was one.
func (s *ringSide) close() (was bool) {
	s.mu.Lock()
	was = s.usable()
	s.off = true
	mappings := s.mappings
	s.own, s.peers, s.data, s.mappings = nil, nil, nil, nil
	s.mu.Unlock() // for isOver: the Close of a file waits until nobody uses it
	if was {
		s.bell.Close() // ends a wait
		closeAll([]int{s.peerBell})
		unmap(mappings...)
	}
	return was
}

// RingOut is the sending end of a ring. The zero value has none. One goroutine at a time
// may call Offer, Write and Wait; the other methods may be called concurrently.
type RingOut struct{ ringSide }

// Offer makes the ring, unless there was an Offer, and calls send with its descriptors:
// the bytes, the receiver's page, the receiver's bell and the sender's. All else is as for
// [Out.Offer].
func (o *RingOut) Offer(send func(fds ...int) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.off || o.own != nil {
		return
	}
	size := ringMemory()
	err := errBudget
	if shared.Add(size) <= Budget {
		err = o.create(send)
	}
	if err != nil {
		shared.Add(-size)
		o.off = !errors.Is(err, ErrAgain)
	}
}

var errBudget = errors.New("no more shared memory for this process")

// ringMemory is how many bytes a ring takes of Budget.
func ringMemory() int64 { return int64(RingSize + os.Getpagesize()) }

// Ready reports whether the peer has mapped the ring.
func (o *RingOut) Ready() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.usable() && atomic.LoadUint32(waitOf(o.peers)) != 0
}

// Write copies as much of head and then body as there is room for, and wakes the receiver.
// It does not wait: n is 0 if there is no room. Half a ring and less is copied as a whole or
// not at all, so a cancelled send has not begun a small frame. The receiver wakes the sender
// when there is room for so much.
func (o *RingOut) Write(head, body []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.usable():
		return 0, net.ErrClosed
	case o.ended.Load():
		return 0, syscall.EPIPE
	}
	o.seen = atomic.LoadUint64(positionOf(o.peers))
	used, size := o.position-o.seen, uint64(len(o.data))
	if used > size {
		return 0, ErrRing
	}
	room := int(size - used)
	if all := len(head) + len(body); room < all && all <= int(size/2) {
		return 0, nil
	}
	n = o.put(0, head[:min(len(head), room)])
	if n == len(head) {
		n = o.put(n, body[:min(len(body), room-n)])
	}
	if n > 0 {
		o.advance(n, true)
	}
	return n, nil
}

// put copies p to where after bytes of this write are, and returns their new number.
func (o *RingOut) put(after int, p []byte) int {
	at := (o.position + uint64(after)) % uint64(len(o.data))
	m := copy(o.data[at:], p)
	copy(o.data, p[m:])
	return after + len(p)
}

// HasRoom reports whether the next Write of n bytes takes them all.
func (o *RingOut) HasRoom(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.usable() && !o.ended.Load() && uint64(n)+o.position-
		atomic.LoadUint64(positionOf(o.peers)) <= uint64(len(o.data))
}

// Close unmaps the ring. The peer can still read what was written.
func (o *RingOut) Close() {
	if o.close() {
		shared.Add(-ringMemory())
	}
}

// RingIn is the receiving end of a ring. The zero value has none. One goroutine at a time
// may call Map, Read and Wait; the other methods may be called concurrently.
type RingIn struct {
	ringSide
	offered []int // descriptors that have come and are not mapped
}

// ringFiles is how many descriptors come with a ring.
const ringFiles = 4

// Offered takes over the descriptors of a peer's ring for Map. It closes them if they are
// not four, or if there is a ring.
func (in *RingIn) Offered(fds []int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.off || in.own != nil || in.offered != nil || len(fds) != ringFiles {
		closeAll(fds)
		return
	}
	in.offered = fds
}

// Map maps the ring that was offered. After an error there is none, and the peer writes to
// the socket as before.
func (in *RingIn) Map() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.offered == nil {
		return ErrNoMemory
	}
	fds := in.offered
	in.offered = nil
	if in.off { // it is being closed
		closeAll(fds)
		return ErrNoMemory
	}
	if err := in.mapFiles(fds); err != nil {
		in.off = true
		return err
	}
	in.publish(0)
	return nil
}

// Read copies bytes to p, and wakes the sender when the ring is half empty. It does not
// wait: n is 0 if nothing has come. The error is io.EOF when the peer is gone and all is
// read.
func (in *RingIn) Read(p []byte) (n int, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.usable() {
		return 0, net.ErrClosed
	}
	ended := in.ended.Load() // before the position, which does not change after it
	in.seen = atomic.LoadUint64(positionOf(in.peers))
	used, size := in.seen-in.position, uint64(len(in.data))
	switch {
	case used > size:
		return 0, ErrRing
	case used == 0 && ended:
		return 0, io.EOF
	}
	if n = min(len(p), int(used)); n == 0 {
		return 0, nil
	}
	m := copy(p[:n], in.data[in.position%size:])
	copy(p[m:n], in.data)
	in.advance(n, used-uint64(n) <= size/2)
	return n, nil
}

// Mapped reports whether there is a ring.
func (in *RingIn) Mapped() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.usable()
}

// Close unmaps the ring.
func (in *RingIn) Close() {
	in.close()
	in.mu.Lock()
	defer in.mu.Unlock()
	closeAll(in.offered)
	in.offered = nil
}
