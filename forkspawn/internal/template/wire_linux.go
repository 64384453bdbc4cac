//go:build amd64 || arm64

package template

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// Parent and template send each other messages over a stream socket that only
// the two have. A message is four bytes with the length of its body, and the
// body. The first byte carries the descriptors. Each side answers before the
// other sends again, so one read can take a whole message. Both are the same
// program, so there are no versions.

// The descriptors of a request are stdin, stdout, stderr and the working
// directory. With request.connected the child's ends of its message connection
// and its control connection follow.
const (
	forkFiles      = 4
	connectedFiles = forkFiles + 2
)

// maxMessage bounds a message, in bytes. An environment has at most 6 MiB
// (execve(2)).
const maxMessage = 16 << 20

var errMessage = errors.New("a message between template and Spawner cannot be read")

// request asks for a child.
type request struct {
	ownGroup    bool
	deathSignal syscall.Signal
	connected   bool
	given       bool   // it gets files over its control connection; see sendFiles
	ticket      []byte // of package handshake, without the variable's name
	env         []string
}

// files returns how many descriptors a request has.
func (r *request) files() int {
	if r.connected {
		return connectedFiles
	}
	return forkFiles
}

const (
	flagOwnGroup = 1 << iota
	flagConnected
	flagGiven
)

// encode returns the message. It has the ticket's secret, so the caller erases
// it.
func (r *request) encode() []byte {
	size := 4 + 2 + 4 + len(r.ticket) + 4
	for _, kv := range r.env {
		size += 4 + len(kv)
	}
	b := make([]byte, 4, size) // it must not grow, which would leave a copy of the secret
	flags := byte(0)
	if r.ownGroup {
		flags |= flagOwnGroup
	}
	if r.connected {
		flags |= flagConnected
	}
	if r.given {
		flags |= flagGiven
	}
	b = append(b, flags, byte(r.deathSignal))
	b = appendText(b, r.ticket)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.env)))
	for _, kv := range r.env {
		b = appendText(b, kv)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// decodeRequest reads the body of a request. Ticket and environment are parts
// of the body, and r.env is nil, so it allocates nothing. All later children
// would have a copy of what the template had in its memory. A page that the
// template writes to also costs a fault, and another in the child.
func decodeRequest(body []byte) (r request, env environ, err error) {
	b := fields{body}
	flags := b.byte()
	r.ownGroup, r.connected = flags&flagOwnGroup != 0, flags&flagConnected != 0
	r.given = flags&flagGiven != 0
	r.deathSignal = syscall.Signal(b.byte())
	r.ticket = b.text()
	env = environ(b.rest)
	for n := b.uint32(); n > 0 && b.rest != nil; n-- {
		b.text()
	}
	if b.rest == nil {
		return r, nil, errMessage
	}
	return r, env, nil
}

// environ is the part of a request that has the environment.
type environ []byte

func (e environ) len() int {
	b := fields{e}
	return int(b.uint32())
}

// all yields the entries. They are parts of the request.
func (e environ) all(yield func(i int, entry []byte) bool) {
	b := fields{e}
	for i := range int(b.uint32()) {
		if !yield(i, b.text()) {
			return
		}
	}
}

// reply is what a template sends.
type reply struct {
	kind     replyKind
	pid      int           // of a child
	errno    syscall.Errno // of the failure, or 0
	reason   string        // of the failure, in words
	resource string        // of an [*osproc.ResourceError], or ""
	remedy   string
}

type replyKind byte

const (
	// The template waits for requests. The reason is what its warm-up has left open
	// and children cannot use, or "".
	replyReady     replyKind = iota + 1
	replyRehearse            // it waits for a ticket and connections, to join once
	replyRefused             // this program or machine cannot fork without exec
	replyFailed              // the warm-up has failed
	replyForked              // with a pidfd
	replyNotForked           // the template goes on
)

// pidOffset is where the pid stands in an encoded reply.
const pidOffset = 4 + 1

func (r *reply) encode() []byte {
	b := append(make([]byte, 4), byte(r.kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.pid))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.errno))
	b = appendText(appendText(appendText(b, r.reason), r.resource), r.remedy)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func decodeReply(body []byte) (r reply, err error) {
	b := fields{body}
	r.kind = replyKind(b.byte())
	r.pid = int(b.uint32())
	r.errno = syscall.Errno(b.uint32())
	r.reason = string(b.text())
	r.resource = string(b.text())
	r.remedy = string(b.text())
	if b.rest == nil {
		return r, errMessage
	}
	return r, nil
}

// err returns the error of a failure. The template names the scarce resource,
// because the limits of its parent can be others.
func (r *reply) err() error {
	err := errors.New(r.reason)
	switch {
	case r.resource != "":
		return &osproc.ResourceError{Resource: r.resource, Remedy: r.remedy,
			Err: wait.Both(err, r.errno)}
	case r.remedy != "":
		return fmt.Errorf("%w; %s", err, r.remedy)
	}
	return err
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(text))), text...)
}

// fields reads a body from its beginning. When something is missing, rest
// becomes nil, and all further values are zero.
type fields struct{ rest []byte }

func (f *fields) take(n int) []byte {
	if f.rest == nil || len(f.rest) < n {
		f.rest = nil
		return zeros[:min(n, len(zeros))]
	}
	b := f.rest[:n:n]
	f.rest = f.rest[n:]
	return b
}

var zeros [4]byte // never written to

func (f *fields) byte() byte     { return f.take(1)[0] }
func (f *fields) uint32() uint32 { return binary.LittleEndian.Uint32(f.take(4)) }
func (f *fields) text() []byte {
	n := f.uint32()
	if n > maxMessage {
		f.rest = nil
		return nil
	}
	return f.take(int(n))
}
