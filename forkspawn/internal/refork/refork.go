package refork

import (
	"errors"
	"strings"
	"time"
)

// Options say what a child gets.
type Options struct {
	// Sibling makes the child a child of this process's own parent (CLONE_PARENT in clone(2)): that one waits
	// for it and gets its exit status. Else it is a child of this process, as after fork(2).
	Sibling bool
	// Files are the descriptors that the child gets besides those of this process's 0, 1 and 2 that no
	// File replaces. All others are dead in the child: see the package comment.
	Files []File
	// Pidfd asks for a pidfd of the child, close-on-exec, which the caller closes.
	Pidfd bool
	// Alone is how long the child's first thread has the process to itself, unless Forker.EndAlone ends that before. Where two
	// threads of a process run at once, each first write to a page since the fork interrupts the other's CPU, and
	// takes several times as long. What the thread does meanwhile must not wait for others.
	Alone time.Duration
	// Request, if not nil, is waited for with all threads stopped, so that the child is forked as soon as it is there. Its descriptors
	// take the place of Files.
	Request *Request
	// Report, if not nil, is sent as soon as there is a child, before the other threads of this process go on, which may
	// take the CPU from the forking one for as long as the child runs.
	Report *Report
}

// Report is what is told of a child over a Unix socket: a message with the child's pid in it, and the pidfd with it
// (SCM_RIGHTS in unix(7)), which stays open here.
type Report struct {
	Socket  int
	Message []byte // at most 64 bytes
	PID     int    // where in Message the pid goes, in 4 bytes, low byte first
	// Hold, without a Request, is how long this process stays stopped when it was sent, unless there is something to read from Socket.
	// The child is often given the forking thread's CPU, and the others would be woken on that of whoever has the report now.
	Hold time.Duration
	Sent bool // set by Fork: false when it could not be sent at once, or in whole
}

// Request is a message that asks for a child, over a Unix stream socket: its first four bytes say how many follow, low byte first. The
// first three of the descriptors that come with it (SCM_RIGHTS in unix(7)) are the child's 0, 1 and 2, and the others keep their numbers.
//
// In the parent Fork does not return when there is a child and the Report was sent: it closes the descriptors, the pidfd too, wipes
// the message, and waits for the next request. So from one to the next nothing runs in the process, which writes to hardly any of the memory
// that it shares with its children.
//
// Fork ends the wait without a child, with ErrDisarmed, when something else is to be done first: a signal is pending, Patience is over, the
// threads cannot be stopped now, the socket is closed, or what came is not just one whole message. What was received by then is the
// caller's, who goes on without. It is also the caller's where Fork ends as without a Request: as there can be no child, or its
// Report was not sent.
type Request struct {
	Socket   int
	Room     []byte // for the message
	Control  []byte // for its descriptors, aligned to 8 bytes
	Counts   [2]int // how many descriptors there may be
	Patience time.Duration
	// Set by Fork: how much there is in Room and Control, and whether Patience was over.
	Size, ControlSize int
	Idle              bool
}

// ErrDisarmed is the result of a Fork whose Request has not come as it should.
var ErrDisarmed = errors.New("refork: no longer waiting for a request")

// File is a descriptor that the child gets.
type File struct {
	From int // its number in this process
	// To is its number in the child. 0, 1 and 2 stay open when the child executes a program, others are
	// close-on-exec. A number above 2 is best the same as From, and no os.File of this process its
	// owner: such a File exists in the child as well, and closes the number there when it is collected.
	To int
}

// Refused tells why a process was not forked. It is as healthy as before.
type Refused struct {
	Reason string // what was found
	Remedy string // what to do about it; "" when nothing can be done
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

// RebuildFailed is the exit status of a child that was forked and could not be made whole, for want
// of threads for example. It has told its stderr what failed.
const RebuildFailed = 117
