//go:build amd64 || arm64

package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The limits of one fork. Above them it is refused.
const (
	maxThreads = 4096
	maxFiles   = 32768
	maxMoves   = 64
	textSize   = 1 << 20 // of the poller's list, enough for about 10,000 sockets
)

// arena is all memory of the frozen section and the signal handler. It has
// numbers only, and Go's collector does not know it. So nothing there
// allocates, moves, or needs a write barrier. Pages that no fork uses take no
// memory. The parts that every fork uses lie together, from the end of the
// first stack to the beginning of the lists, because each page costs parent and
// child a fault.
type arena struct {
	builderStack [32 << 10]byte
	builderTop   [8]uint64
	stack        [32<<10 - 1024]byte // of the frozen section
	stackTop     [8]uint64
	zeroG        [64]uint64 // the g of both; functions only look at its stack limit

	// The handler's part. handler_linux_*.s uses these names, and slots.

	gen    uint32 // counts attempts to freeze, and their ends; frozen threads wait on it (futex)
	active uint32 // not 0: the handler freezes its thread
	taken  uint32 // slots that were taken in this attempt
	inside uint32 // handlers that run

	layout layout // found once, before the first fork

	// The options, written before the threads are frozen.

	cloneFlags uintptr
	taskDir    uintptr // descriptors of /proc/self/task, /proc/self/fd and the poller's fdinfo
	fdDir      uintptr
	fdInfo     uintptr
	poison     uintptr
	signals    uintptr // a signalfd
	wait       int64   // for all threads to freeze, in ns
	nMoves     int
	nKeep      int
	oldAction  sigaction
	newAction  sigaction
	report     report
	request    request

	// The results of the frozen section.

	result   result
	g        uintptr // of the forking goroutine
	self     slot    // of the forking thread; it has no frame
	oldMask  uint64
	pid      uintptr
	child    bool
	pidfd    int32
	nTids    int
	nSent    int
	nFDs     int
	nPolled  int
	timer    uint32 // the lowest POSIX timer id that was never inspected
	frozenAt int64  // clock when all were frozen
	thawedAt int64  // clock at the thaw
	scratch  [128]byte

	// The part of the child's builder, which runs at the same time as the
	// forking thread.

	builder      uint32 // not 0 while it runs; the kernel clears it
	builderPID   uintptr
	builderSleep syscall.Timespec
	builderTLS   [2]uintptr // its g, below its thread pointer
	alone        uint32     // not 0 while it waits (futex)
	aloneFor     syscall.Timespec

	// The lists. Usually only their beginnings are used.

	moves  [maxMoves]move
	keep   [maxMoves]uint32 // descriptors that stay as they are
	slots  [maxThreads]slot
	random [(maxThreads + 2) * 32]byte
	tids   [maxThreads]uint32 // the last list of threads
	sent   [maxThreads]uint32 // threads that were sent the signal
	fds    [maxFiles]uint32
	kinds  [maxFiles]kind // of fds
	polled [maxFiles]polled
	text   [textSize]byte
}

// offsetM is the offset of m in a g (runtime2.go of the Go runtime). The
// assembly uses it too. findLayout proves it.
const offsetM = 48

// layout has the addresses and offsets of the runtime's variables.
type layout struct {
	procid     uintptr // in an m
	tls        uintptr // tlsMark, the same for all threads of a program without cgo
	chacha     uintptr // the random state in an m
	preempted  uintptr // m.signalPending, the mark of a pending preemption; 0 is unknown
	globalRand uintptr // the address of the random state that new threads are seeded from
	epoll      uint32  // descriptors of the runtime's poller
	eventfd    uint32
	eventfdVar uintptr // the address of the runtime's variable that holds eventfd
	vdso       segment // the kernel's code in this process, where it matters
}

// slot is one frozen thread.
type slot struct {
	frame uintptr // the kernel's signal frame: all registers, the mask and the alternate stack
	tls   uintptr // the thread pointer: the FS base, or TPIDR_EL0
	g     uintptr
	m     uintptr
	tid   uint32
	gen   uint32 // written last; the slot is valid if it equals the arena's
	_     [3]uint64
}

// move gives the child a descriptor.
type move struct{ from, to uint32 }

// report is a Report, and the arguments of sendmsg(2) for it. Addresses are
// also numbers here: while the collector runs, a store of a pointer needs a g.
type report struct {
	wanted, sent bool
	socket       uintptr
	header       msghdr
	iov          [2]uintptr // struct iovec: base, length
	control      struct {
		header unix.Cmsghdr
		pidfd  int32
		_      int32
	}
	pidAt   int
	message [64]byte
}

// request is a Request.
type request struct {
	wanted      bool
	socket      uintptr
	header      msghdr
	iov         [2]uintptr
	controlRoom uintptr
	counts      [2]int
	until       int64 // by clock
	timeout     syscall.Timespec
	polls       [2]unix.PollFd
	signals     uint64 // these end the wait
	size        int    // received
	served      int    // children that were reported
}

// msghdr is the kernel's struct user_msghdr.
type msghdr struct {
	name, nameLen       uintptr
	iov, iovLen         uintptr
	control, controlLen uintptr
	flags               uint32
	_                   uint32
}

// polled is one entry of the runtime's poller.
type polled struct {
	data   uint64
	fd     uint32
	events uint32
}

// sigaction is the kernel's struct of rt_sigaction(2).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// Flags of rt_sigaction(2).
const (
	saSiginfo  = 0x4
	saRestorer = 0x04000000
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
)

// shared is the arena of this process. The handler reads it.
var shared *arena

func newArena() (*arena, error) {
	const flags = unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_NORESERVE
	p, err := unix.MmapPtr(-1, 0, nil, unsafe.Sizeof(arena{}),
		unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, &Refused{Reason: "no memory for the list of threads", Err: err}
	}
	return (*arena)(p), nil
}

// result is the outcome of an attempt. It has numbers only, because no text can
// be made while threads are frozen.
type result struct {
	code  code
	errno syscall.Errno
	a, b  uint64
}

type code uint32

const (
	ok code = iota
	failedMask
	failedAction
	foreignHandler // a: its address
	stillInside    // a: handlers of an earlier attempt; b: a builder
	failedList     // a: the list's descriptor
	tooManyThreads
	tooManyFiles
	noSelf
	timedOut   // a: threads, b: of them frozen
	wrongLinks // a: threads by the kernel's count, b: in its list
	wrongCount // a: slots, b: threads
	wrongMs    // a: the runtime's threads, b: the kernel's
	wrongM     // a: tid, b: m.procid
	starting   // a: tid
	wrongTLS   // a: tid, b: tlsMark
	wrongRand  // a: tid
	wrongGlobalRand
	profiling     // CPU profile
	failedTimer   //
	posixTimer    // a: its id
	failedPoller  // reading its list
	pollerTooLong //
	pollerChanged // a: eventfd entries
	failedClone
	disarmed // the wait for a request has ended without a whole one
	idle     // no request came; this is the last code
)

// at, at8 and at32 return pointers into the runtime's memory. With -d=checkptr=2 their
// arguments would be allocated.
//
//go:nocheckptr
func at(addr uintptr) *uint64 { return *(**uint64)(unsafe.Pointer(&addr)) }

//go:nocheckptr
func at8(addr uintptr) *byte { return *(**byte)(unsafe.Pointer(&addr)) }

//go:nocheckptr
func at32(addr uintptr) *uint32 { return *(**uint32)(unsafe.Pointer(&addr)) }
