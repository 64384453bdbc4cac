// Package slab keeps large messages in memory that two processes share. The sender writes
// a message into memory of its own, which the receiver can only read, and tells the
// receiver its place.
//
// The receiver counts the messages that it is done with in a page, so that the sender knows
// what is free. The sender makes that page too, and the receiver then seals it as its own.
// So the sender needs no answer: it offers both once, and uses them when the page shows
// that the receiver has mapped them.
//
// Neither side can harm the other:
//
//   - Nobody can make the memory shorter (F_SEAL_SHRINK in fcntl(2)), so a read is never a
//     SIGBUS. Pages are there before they are used (MADV_POPULATE_READ in madvise(2)), so a
//     lack of memory is an error.
//   - The places of messages do not come from shared memory, and each is checked.
//   - The count is read once, and checked.
//   - The bytes of a message can change while they are read. A reader copies
//     them before it decodes them.
//
// The memory has no name, and no descriptor after it was mapped. It is free again when both
// sides have unmapped it or have ended, however they ended.
package slab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// Size is how many bytes each side shares at most.
	Size = 16 << 20
	// Budget is how many bytes this process shares at most, over all its channels. The
	// memory that peers share is theirs.
	Budget = 256 << 20
	// MaxSize is the largest memory of a peer.
	MaxSize = 64 << 20

	// align is that of messages: a cache line.
	align = 64
	// step is how much memory is populated at a time.
	step = 1 << 20
)

// Ref is the place of a message: where it begins in the memory, and its size, in bytes.
type Ref struct{ At, Size uint32 }

// RefSize is the size of an encoded Ref, in bytes.
const RefSize = 8

// AppendRef appends the encoded ref to b.
func AppendRef(b []byte, ref Ref) []byte {
	b = binary.LittleEndian.AppendUint32(b, ref.At)
	return binary.LittleEndian.AppendUint32(b, ref.Size)
}

// ParseRef decodes a Ref. b has RefSize bytes.
func ParseRef(b []byte) Ref {
	return Ref{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}
}

// The counter is 0 until the receiver has mapped the memory. Then it is mapped and one more
// for each message that the receiver is done with.
const mapped = 1

// ErrAgain is the error of the send of an Offer that can be tried again.
var ErrAgain = errors.New("try again")

// Out is the memory of a sender. The zero value has none. One goroutine at a time may call
// Put and Commit; the other methods may be called concurrently.
type Out struct {
	mu        sync.Mutex // guards what follows; held over a copy, and over no wait
	off       bool       // there is none, and there will be none
	data      []byte     // nil if there is none
	owner     int        // the process that has mapped data
	counter   []byte     // written by the peer
	populated int        // the bytes of data that have memory
	count     uint64     // the counter when it was last read
	inUse     []span     // sent, and the peer is not done with them; oldest first
}

// span is a part of the memory.
type span struct{ begin, end int }

// Offer makes the memory, unless there was an Offer, and calls send with its descriptors.
// send must not wait, and not keep the descriptors. If send fails with ErrAgain, the next
// Offer makes it again; after another error there is none. No memory is not an error of
// the caller, so Offer has none.
func (o *Out) Offer(send func(data, counter int) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.off || o.data != nil {
		return
	}
	data, counter, err := o.create(send)
	switch {
	case err == nil:
		o.data, o.owner, o.counter, o.populated = data, os.Getpid(), counter, 0
	case !errors.Is(err, ErrAgain):
		o.off = true
	}
}

// Offered reports whether an Offer has come to its end: with memory, or without.
func (o *Out) Offered() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.off || o.data != nil
}

// Ready reports whether the peer has mapped the memory.
func (o *Out) Ready() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ready()
}

// ready updates what the peer is done with. It reports whether there is memory to use.
func (o *Out) ready() bool {
	o.disown()
	if o.data == nil {
		return false
	}
	count := load(o.counter)
	if count == 0 && o.count == 0 {
		return false
	}
	o.count = max(o.count, mapped)
	done := count - o.count
	if done > uint64(len(o.inUse)) { // also if the count is smaller than before
		o.drop()
		return false
	}
	o.count = count
	o.inUse = append(o.inUse[:0], o.inUse[done:]...)
	return true
}

// Put copies p into the memory, where it stays if Commit follows. ok is false if there is
// no memory, or not enough that is free.
func (o *Out) Put(p []byte) (ref Ref, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ready() {
		return Ref{}, false
	}
	at, ok := o.place(len(p))
	if !ok {
		return Ref{}, false
	}
	if end := at + len(p); end > o.populated && !o.grow(end) {
		return Ref{}, false
	}
	copy(o.data[at:], p)
	return Ref{uint32(at), uint32(len(p))}, true
}

// shared is how many bytes of all senders have memory.
var shared atomic.Int64

// grow gives the bytes up to end their memory. It reports whether it could.
func (o *Out) grow(end int) bool {
	end = min((end+step-1)/step*step, len(o.data))
	n := int64(end - o.populated)
	if shared.Add(n) > Budget || populate(o.data[o.populated:end], true) != nil {
		shared.Add(-n)
		return false
	}
	o.populated = end
	return true
}

// place finds n free bytes. Memory is reused from its beginning when all is free, because
// that part is in the caches.
func (o *Out) place(n int) (at int, ok bool) {
	if len(o.inUse) == 0 {
		return 0, n <= len(o.data)
	}
	first, last := o.inUse[0].begin, o.inUse[len(o.inUse)-1].end
	switch {
	case last <= first: // it has come round
		return last, n <= first-last
	case n <= len(o.data)-last:
		return last, true
	}
	return 0, n <= first
}

// Commit notes that the peer gets ref.
func (o *Out) Commit(ref Ref) {
	o.mu.Lock()
	defer o.mu.Unlock()
	begin, end := int(ref.At), int(ref.At+ref.Size)
	o.inUse = append(o.inUse, span{begin, (end + align - 1) / align * align})
}

// Close unmaps the memory. The peer keeps its mapping.
func (o *Out) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.disown()
	o.drop()
}

// disown forgets memory that this process does not have. A child that is forked without
// exec has the value of its parent, but not the mappings.
func (o *Out) disown() {
	if o.data != nil && o.owner != os.Getpid() {
		o.forget()
	}
}

func (o *Out) drop() {
	unmap(o.data, o.counter)
	o.forget()
}

func (o *Out) forget() {
	shared.Add(-int64(o.populated))
	o.off, o.populated, o.data, o.counter, o.inUse = true, 0, nil, nil, nil
}

// In is the memory of a peer. The zero value has none. One goroutine at a time may call
// Map, Check, Take and Release; the others may be called concurrently.
type In struct {
	mu        sync.Mutex // guards what follows; not held while a message is in use
	closed    bool
	offered   []int  // descriptors that have come and are not mapped
	data      []byte // nil if there is none
	owner     int    // the process that has mapped data
	counter   []byte // this side writes it; nil if there is none
	populated int    // the bytes of data that are known to have memory
	count     uint64 // what counter has; the peer might change counter
	held      int    // messages in use: one, and one that was lent until a Close
}

// ErrNoMemory is the error of Map if no descriptors have come: this process had no room for
// them, or something between the processes has lost them.
var ErrNoMemory = errors.New("no descriptors came")

// Offered takes over the descriptors of a peer's memory for Map. It closes them if they are
// not two, or if there is memory.
func (in *In) Offered(fds []int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.data != nil || in.offered != nil || len(fds) != 2 {
		closeAll(fds)
		return
	}
	in.offered = fds
}

// Map maps the memory that was offered. After an error there is none, and the peer sends
// its messages in another way.
func (in *In) Map() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.offered == nil {
		return ErrNoMemory
	}
	data, counter, err := open(in.offered[0], in.offered[1])
	closeAll(in.offered)
	in.offered = nil
	if err != nil {
		return err
	}
	in.data, in.owner, in.counter, in.count = data, os.Getpid(), counter, mapped
	store(in.counter, in.count)
	return nil
}

// Check returns an error if ref is not in the memory.
func (in *In) Check(ref Ref) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.disown()
	end := int64(ref.At) + int64(ref.Size)
	switch {
	case in.closed:
		return nil // Take reports it
	case ref.Size == 0 || end > int64(len(in.data)):
		return fmt.Errorf("a message of %d bytes at %d, in shared memory of %d bytes",
			ref.Size, ref.At, len(in.data))
	case end <= int64(in.populated):
		return nil
	}
	end = min((end+step-1)/step*step, int64(len(in.data)))
	if err := populate(in.data[in.populated:end], false); err != nil {
		return err
	}
	in.populated = int(end)
	return nil
}

// Take returns the message at ref, for which Check has returned nil. It stays mapped until
// Release, also after a Close. It is nil after a Close.
func (in *In) Take(ref Ref) []byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.disown()
	if in.closed {
		return nil
	}
	in.held++
	end := ref.At + ref.Size
	return in.data[ref.At:end:end]
}

// Release gives the message of Take back.
func (in *In) Release() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.disown()
	if in.held == 0 {
		return
	}
	in.held--
	in.count++
	store(in.counter, in.count)
	if in.closed && in.held == 0 {
		in.drop()
	}
}

// Close unmaps the memory, or lets Release do so. It reports whether a message is in use.
func (in *In) Close() (held bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.disown()
	in.closed = true
	if in.held == 0 {
		in.drop()
	}
	return in.held > 0
}

// disown is like that of Out. A channel in a forked child is as if it were closed.
func (in *In) disown() {
	if in.data != nil && in.owner != os.Getpid() {
		in.closed, in.held, in.data, in.counter = true, 0, nil, nil
	}
}

func (in *In) drop() {
	closeAll(in.offered)
	unmap(in.data, in.counter)
	in.offered, in.data, in.counter = nil, nil, nil
}

func load(counter []byte) uint64     { return atomic.LoadUint64(word64(counter)) }
func store(counter []byte, n uint64) { atomic.StoreUint64(word64(counter), n) }

// word64 returns the counter as a number in the machine's byte order. Both sides are on one
// machine. A mapping begins at a page.
func word64(counter []byte) *uint64 { return (*uint64)(unsafe.Pointer(unsafe.SliceData(counter))) }
