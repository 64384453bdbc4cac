package inspect

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Call is an open call or stream.
type Call struct {
	Method   string `json:"method"`
	Incoming bool   `json:"incoming,omitempty"` // for the process that reports it
	// Age is since the first look that has seen the call, or since its beginning if
	// the connection has a Trace. So nothing is recorded while nobody looks.
	Age      time.Duration `json:"age_ns,omitempty"`
	Sent     int64         `json:"sent,omitempty"`     // bytes of messages
	Received int64         `json:"received,omitempty"` // bytes of messages
	Credit   int64         `json:"credit,omitempty"`   // bytes that it may still send now
	TraceID  string        `json:"trace_id,omitempty"` // of its traceparent, if it has one
}

// maxCalls is how many calls of a connection are listed: the oldest ones.
const maxCalls = 64

// Calls is a connection with calls.
type Calls interface {
	// Channel is the *transport.Channel of the calls.
	Channel() any
	// Open returns the open calls.
	Open() []Call
}

var conns = struct {
	sync.Mutex // guards open
	open       map[Calls]struct{}
}{open: make(map[Calls]struct{})}

// AddCalls makes a connection known. RemoveCalls must follow.
func AddCalls(c Calls) {
	conns.Lock()
	defer conns.Unlock()
	conns.open[c] = struct{}{}
}

// RemoveCalls removes a connection. It does nothing the second time.
func RemoveCalls(c Calls) {
	conns.Lock()
	defer conns.Unlock()
	delete(conns.open, c)
}

// OpenCalls returns the open calls of this process by their channel.
func OpenCalls() map[any][]Call {
	conns.Lock()
	list := make([]Calls, 0, len(conns.open))
	for c := range conns.open {
		list = append(list, c)
	}
	conns.Unlock()
	open := make(map[any][]Call)
	for _, c := range list {
		calls := c.Open()
		slices.SortFunc(calls, func(a, b Call) int {
			return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(a.Method, b.Method))
		})
		if len(calls) > 0 {
			open[c.Channel()] = calls[:min(len(calls), maxCalls)]
		}
	}
	return open
}
