package forkspawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// What a Spawner and its template say to each other, over a stream socket that only these two have: a length of four bytes,
// whose first carries the descriptors, and a body. The other side has answered before there is another, so one read
// can take a whole message. Both are one and the same program, so there are no versions.

// The descriptors of a request: stdin, stdout, stderr and the working directory; and then, if it is connected, the child's ends of
// its message connection and its control connection.
const (
	forkFiles      = 4
	connectedFiles = forkFiles + 2
)

// maxTemplateMessage bounds a message, in bytes. An environment is at most 6 MiB (execve(2)).
const maxTemplateMessage = 16 << 20

var errTemplateMessage = errors.New("a message between template and Spawner cannot be read")

// forkRequest asks for a child.
type forkRequest struct {
	ownGroup    bool
	deathSignal syscall.Signal
	connected   bool
	spare       bool   // it will wait for its spec
	ticket      []byte // of package handshake, without the variable's name
	env         []string
}

// files is how many descriptors come with it.
func (r *forkRequest) files() int {
	if r.connected {
		return connectedFiles
	}
	return forkFiles
}

// environ is the part of a message that has the environment.
type environ []byte

func (e environ) len() int {
	b := fields{e}
	return int(b.uint32())
}

// all returns its entries in turn; they are parts of the message.
func (e environ) all(yield func(i int, entry []byte) bool) {
	b := fields{e}
	for i := range int(b.uint32()) {
		if !yield(i, b.text()) {
			return
		}
	}
}

// encode returns the message, which has the ticket's secret. The caller wipes it.
func (r *forkRequest) encode() []byte {
	size := 4 + 2 + 4 + len(r.ticket) + 4
	for _, kv := range r.env {
		size += 4 + len(kv)
	}
	b := make([]byte, 4, size) // in one piece, as there is to be one copy of the secret
	flags := byte(0)
	if r.ownGroup {
		flags |= flagOwnGroup
	}
	if r.connected {
		flags |= flagConnected
	}
	if r.spare {
		flags |= flagSpare
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

const (
	flagOwnGroup = 1 << iota
	flagConnected
	flagSpare
)

// decodeForkRequest reads a message's body. Ticket and environment are parts of it, and r.env is nil: nothing is allocated. What a template
// had itself in memory, if only for a moment, all its later children would have; and what it has written to since the last fork costs
// a fault there and one in the child.
func decodeForkRequest(body []byte) (r forkRequest, env environ, err error) {
	b := fields{body}
	flags := b.byte()
	r.ownGroup, r.connected, r.spare = flags&flagOwnGroup != 0, flags&flagConnected != 0, flags&flagSpare != 0
	r.deathSignal = syscall.Signal(b.byte())
	r.ticket = b.text()
	env = environ(b.rest)
	for n := b.uint32(); n > 0 && b.rest != nil; n-- {
		b.text()
	}
	if b.rest == nil {
		return r, nil, errTemplateMessage
	}
	return r, env, nil
}

// templateNews is what a template says.
type templateNews struct {
	kind     newsKind
	pid      int           // of a child
	errno    syscall.Errno // why not, or 0
	reason   string        // and in words
	resource string        // of a [*ResourceError], else ""
	remedy   string
}

type newsKind byte

const (
	newsReady     newsKind = iota + 1 // it waits for requests
	newsRehearse                      // it waits for a ticket and connections, to join once
	newsRefused                       // this program or machine cannot fork without exec
	newsFailed                        // the warm-up has failed
	newsForked                        // with a pidfd
	newsNotForked                     // it goes on
)

// pidAt is where in encoded news the pid is.
const pidAt = 4 + 1

func (n *templateNews) encode() []byte {
	b := append(make([]byte, 4), byte(n.kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(n.pid))
	b = binary.LittleEndian.AppendUint32(b, uint32(n.errno))
	b = appendText(appendText(appendText(b, n.reason), n.resource), n.remedy)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func decodeTemplateNews(body []byte) (n templateNews, err error) {
	b := fields{body}
	n.kind = newsKind(b.byte())
	n.pid = int(b.uint32())
	n.errno = syscall.Errno(b.uint32())
	n.reason = string(b.text())
	n.resource = string(b.text())
	n.remedy = string(b.text())
	if b.rest == nil {
		return n, errTemplateMessage
	}
	return n, nil
}

// err is the error that the news are. What is scarce for the template may not be for the Spawner, so the template says what it is.
func (n *templateNews) err() error {
	err := errors.New(n.reason)
	switch {
	case n.resource != "":
		return &ResourceError{n.resource, n.remedy, &bothErrors{err, n.errno}}
	case n.remedy != "":
		return fmt.Errorf("%w; %s", err, n.remedy)
	}
	return err
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(text))), text...)
}

// fields reads a body from its beginning. When something is missing rest becomes nil, and all that is read is zero.
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
	if n > maxTemplateMessage {
		f.rest = nil
		return nil
	}
	return f.take(int(n))
}
