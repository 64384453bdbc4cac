package forkspawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// What a Spawner and its template say to each other, over a stream socket that only these two have: a length of four bytes,
// which carries the descriptors, and a body. Both are one and the same program, so there are no versions.

// forkFiles are the descriptors of a request: stdin, stdout, stderr, and the working directory.
const forkFiles = 4

// maxTemplateMessage bounds a message, in bytes. An environment is at most 6 MiB (execve(2)).
const maxTemplateMessage = 16 << 20

var errTemplateMessage = errors.New("a message between template and Spawner cannot be read")

// forkRequest asks for a child.
type forkRequest struct {
	ownGroup    bool
	deathSignal syscall.Signal
	ticket      []byte // of package handshake, without the variable's name
	env         []string
}

// encode returns the message, which has the ticket's secret. The caller wipes it.
func (r *forkRequest) encode() []byte {
	size := 4 + 2 + 4 + len(r.ticket) + 4
	for _, kv := range r.env {
		size += 4 + len(kv)
	}
	b := make([]byte, 4, size) // in one piece, as there is to be one copy of the secret
	flag := byte(0)
	if r.ownGroup {
		flag = 1
	}
	b = append(b, flag, byte(r.deathSignal))
	b = appendText(b, r.ticket)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.env)))
	for _, kv := range r.env {
		b = appendText(b, kv)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// decodeForkRequest reads a message's body. The ticket is a part of it. A template leaves this to the child: what it had itself
// in memory, if only for a moment, all its later children would have.
func decodeForkRequest(body []byte) (r forkRequest, err error) {
	b := fields{body}
	r.ownGroup = b.byte() == 1
	r.deathSignal = syscall.Signal(b.byte())
	r.ticket = b.text()
	n := b.uint32()
	for range n {
		if b.rest == nil {
			break
		}
		r.env = append(r.env, string(b.text()))
	}
	if b.rest == nil {
		return r, errTemplateMessage
	}
	return r, nil
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
	newsRefused                       // this program or machine cannot fork without exec
	newsFailed                        // the warm-up has failed
	newsForked                        // with a pidfd
	newsNotForked                     // it goes on
)

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
		return make([]byte, min(n, 4))
	}
	b := f.rest[:n:n]
	f.rest = f.rest[n:]
	return b
}

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
