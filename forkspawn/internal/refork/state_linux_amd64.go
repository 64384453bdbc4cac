package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What one fork has room for; more is refused.
const (
	maxThreads = 4096
	maxFiles   = 32768
	maxMoves   = 64
	textSize   = 1 << 20 // of the poller's list: about 10,000 sockets
)

// arena is everything that the frozen section and the signal handler read and write: numbers only, in
// memory of its own that Go's collector does not know, so that nothing there can allocate, move, or need a write
// barrier. The pages that no fork ever touches take no memory. What every fork touches is close together, from the end of the first
// stack to the beginning of the lists: each page of it costs parent and child a fault.
type arena struct {
	builderStack [32 << 10]byte
	builderTop   [8]uint64
	stack        [32<<10 - 1024]byte // of the frozen section
	stackTop     [8]uint64
	zeroG        [64]uint64 // the g of both: all that a function looks at is its stack's limit

	// The handler's part; handler_linux_amd64.s knows these names, and slots.

	gen    uint32 // counts attempts to freeze, and their ends; what frozen threads wait on (futex)
	active uint32 // whether the handler shall freeze its thread
	taken  uint32 // slots handed out in this attempt
	inside uint32 // handlers that run

	layout layout // found once, before the first fork

	// What is asked for. Written before the threads are frozen.

	cloneFlags uintptr
	taskDir    uintptr // descriptors of /proc/self/task, /proc/self/fd and the poller's fdinfo
	fdDir      uintptr
	fdInfo     uintptr
	poison     uintptr
	signals    uintptr // a signalfd
	wait       int64   // for all threads to freeze, in ns
	nMoves     int
	dupMin     uintptr // a number above all that moves go to
	nKeep      int
	oldAction  sigaction
	newAction  sigaction
	report     report
	request    request

	// What was found while frozen.

	result   result
	g        uintptr // of the goroutine that forks
	self     slot    // of the thread that forks; it has no frame
	oldMask  uint64
	pid      uintptr
	child    bool
	pidfd    int32
	nTids    int
	nSent    int
	nFDs     int
	nPolled  int
	timer    uint32 // the lowest POSIX timer id that was never looked at
	frozenAt int64  // clock when all were frozen
	thawedAt int64  // clock when they were let go
	scratch  [128]byte

	// The part of the child's builder, which runs beside the forking thread.

	builder      uint32 // not 0 while it runs; the kernel clears it
	builderPID   uintptr
	builderSleep syscall.Timespec
	builderTLS   [2]uintptr // its g, below its FS base
	alone        uint32     // not 0 while it waits (futex)
	aloneFor     syscall.Timespec

	// The lists, whose beginnings alone are touched as a rule.

	moves  [maxMoves]move
	keep   [maxMoves]uint32 // descriptors that stay as they are
	slots  [maxThreads]slot
	random [(maxThreads + 2) * 32]byte
	tids   [maxThreads]uint32 // the last listing of threads
	sent   [maxThreads]uint32 // threads that were sent the signal
	fds    [maxFiles]uint32
	polled [maxFiles]polled
	text   [textSize]byte
}

// offsetM is where a g has its m (runtime2.go of the Go runtime). The assembly uses it too; that it holds
// is proved by findLayout.
const offsetM = 48

// layout is where the runtime keeps what the child must set. None of it is known beforehand but offsetM.
type layout struct {
	procid     uintptr // in an m
	fs         uintptr // FS base minus m, the same for all threads of a program without cgo
	chacha     uintptr // the random state in an m
	preempted  uintptr // m.signalPending: whether a preemption signal is under way; 0 is unknown
	globalRand uintptr // the address of the random state that new threads are seeded from
	epoll      uint32  // descriptors of the runtime's poller
	eventfd    uint32
	eventfdVar uintptr // the address of the runtime's variable that holds eventfd
}

// slot is one frozen thread.
type slot struct {
	frame uintptr // the kernel's signal frame: all registers, the mask and the alternate stack
	fs    uintptr // FS base, where the thread finds its g
	g     uintptr
	m     uintptr
	tid   uint32
	gen   uint32 // written last: the slot is valid if it is the arena's
	_     [3]uint64
}

// move is a File in the making.
type move struct {
	from, to uint32
	first    bool // from is overwritten by another move: it is duplicated before any
}

// report is a Report, with what sendmsg(2) wants of it. Addresses are numbers here as everywhere in the arena: to store a pointer is
// more than a store while the collector runs, and needs a g.
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
	hold    syscall.Timespec
	poll    unix.PollFd
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
	signals     uint64 // that end the wait
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

// shared is the one arena of this process; the handler reads it.
var shared *arena

func newArena() (*arena, error) {
	const flags = unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_NORESERVE
	p, err := unix.MmapPtr(-1, 0, nil, unsafe.Sizeof(arena{}), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, &Refused{Reason: "no memory for the list of threads", Err: err}
	}
	return (*arena)(p), nil
}

// result tells how an attempt ended. Numbers, as no text can be made while threads are frozen.
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
	stillInside    // a: handlers of an earlier attempt that have not left
	failedList     // a: which list
	tooManyThreads
	tooManyFiles
	noSelf
	timedOut   // a: threads, b: of them frozen
	wrongLinks // a: threads by the kernel's count, b: in its list
	wrongCount // a: slots, b: threads
	wrongMs    // a: the runtime's threads, b: the kernel's
	wrongM     // a: tid, b: m.procid
	wrongFS    // a: tid, b: FS base - m
	wrongRand  // a: tid
	wrongGlobalRand
	profiling     // CPU profile
	failedTimer   //
	posixTimer    // a: its id
	failedPoller  // reading its list
	pollerTooLong //
	pollerChanged // a: eventfd entries
	failedClone
	disarmed // the wait for a request has ended without one that is whole
	idle     // there was none
)

// at gives the words of the runtime's own structures.
func at(addr uintptr) *uint64 { return *(**uint64)(unsafe.Pointer(&addr)) }

func at8(addr uintptr) *byte { return *(**byte)(unsafe.Pointer(&addr)) }

func at32(addr uintptr) *uint32 { return *(**uint32)(unsafe.Pointer(&addr)) }
