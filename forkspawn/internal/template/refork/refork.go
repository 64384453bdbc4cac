package refork

import (
	"errors"
	"strings"
	"time"
)

// Options are the settings of one fork.
type Options struct {
	// Sibling makes the child a child of this process's own parent
	// (CLONE_PARENT in clone(2)). The parent waits for it and gets its exit
	// status. Otherwise it is a child of this process, as after fork(2).
	Sibling bool
	// Stdio become the child's 0, 1 and 2, and stay open when it executes a
	// program. A zero keeps this process's own.
	Stdio [3]int
	// Keep are the other descriptors of the child. They keep their numbers, and
	// are close-on-exec in the child. No os.File of this process should own
	// them, because the child has a copy of such an os.File, with its
	// finalizer. The package comment says what becomes of the others.
	Keep []int
	// Pidfd asks for a pidfd of the child, close-on-exec. The caller closes it.
	Pidfd bool
	// Alone is how long the child's first thread runs alone, unless
	// Forker.EndAlone ends that before. While two threads of a process run,
	// each first write to a page since the fork interrupts the other's CPU, and
	// takes several times as long. The thread must not wait for others
	// meanwhile.
	Alone time.Duration
	// Request, if not nil, is waited for with all threads frozen, so that the
	// fork follows at once. Its descriptors replace Stdio and Keep.
	Request *Request
	// Report, if not nil, is sent as soon as there is a child, before the other
	// threads of this process go on. They may take the CPU from the forking one
	// as long as the child runs.
	Report *Report
}

// Report is a message about a child, to be sent over a Unix socket. It has the
// child's pid in it, and with Options.Pidfd carries the pidfd (SCM_RIGHTS in
// unix(7)), which stays open in this process.
type Report struct {
	Socket  int
	Message []byte // at most 64 bytes
	PID     int    // where the pid goes in Message, as 4 bytes, low byte first
	Sent    bool   // set by Fork: false if it could not be sent at once and in whole
}

// Request is a message over a Unix stream socket that asks for a child. Its
// first four bytes are the number of bytes that follow, low byte first. The
// first three descriptors that it carries (SCM_RIGHTS in unix(7)) become the
// child's 0, 1 and 2. The others keep their numbers.
//
// In the parent, Fork does not return after a child whose Report was sent. It
// closes the descriptors and the pidfd, erases the message, and waits for the
// next request. So nothing else runs in the process from one request to the
// next, and the process writes to hardly any of the memory that it shares with
// its children.
//
// Fork ends the wait with ErrDisarmed when a signal is pending, Patience is
// over, the threads cannot be frozen, the socket is closed, or anything but one
// whole message has come. The caller gets what was received, and continues
// without a Request. It also gets the message when there can be no child, or
// its Report was not sent; then Fork returns as without a Request.
type Request struct {
	Socket   int
	Room     []byte // for the message
	Control  []byte // for its descriptors, aligned to 8 bytes
	Counts   [2]int // the numbers of descriptors that are allowed
	Patience time.Duration
	// Set by Fork: the bytes in Room and Control, and whether Patience was
	// over.
	Size, ControlSize int
	Idle              bool
}

// ErrDisarmed is the error of a Fork whose Request has not come as one whole
// message.
var ErrDisarmed = errors.New("refork: no longer waiting for a request")

// Refused is the reason why a process was not forked. The process itself is not
// harmed.
type Refused struct {
	Reason string
	Remedy string // "" when there is none
	Err    error  // the cause, or nil
}

func (r *Refused) Error() string {
	var b strings.Builder
	b.WriteString("cannot fork without exec: ")
	b.WriteString(r.Reason)
	if r.Err != nil {
		b.WriteString(": ")
		b.WriteString(r.Err.Error())
	}
	if r.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(r.Remedy)
	}
	return b.String()
}

func (r *Refused) Unwrap() error { return r.Err }

// ErrSlow is the cause of a Refused when the threads have not stopped, or gone on, in
// time. Another fork may succeed.
var ErrSlow = errors.New("the machine is slow, or a thread hangs")

// RebuildFailed is the exit status of a child that could not start all its
// threads. The child has written the reason to its stderr.
const RebuildFailed = 117
