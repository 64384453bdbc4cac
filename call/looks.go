package call

import (
	"context"
	"math"
	"time"

	"github.com/spawnwire/spawnwire/internal/inspect"
)

// looks is a Conn for package inspect. It records nothing while nobody looks.
type looks Conn

// seenCall is a call that a look has seen.
type seenCall struct {
	id       uint64
	incoming bool
}

// Channel returns the channel of the calls.
func (l *looks) Channel() any { return l.ch }

// Open returns the open calls. It remembers when it has first seen each.
func (l *looks) Open() []inspect.Call {
	calls, contexts := l.open()
	for i, ctx := range contexts { // without mu, as a context can be anybody's
		calls[i].TraceID = traceID(MetadataOf(ctx))
	}
	return calls
}

// open returns the open calls without their trace ids, and their contexts.
func (l *looks) open() (calls []inspect.Call, contexts []context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, now := make(map[seenCall]time.Time), time.Now()
	add := func(x *exchange, method string, ctx context.Context) {
		key := seenCall{x.id, !x.caller}
		began, ok := l.seen[key]
		if !ok {
			began = now
		}
		seen[key] = began
		if x.trace != nil {
			began = x.trace.began
		}
		calls = append(calls, inspect.Call{Method: method, Incoming: !x.caller,
			Age:      now.Sub(began),
			Sent:     int64(x.out.sent) - overhead*x.out.count,
			Received: int64(x.in.received) - overhead*x.in.count,
			Credit:   int64(min(max(x.out.credit, x.out.sent)-x.out.sent, math.MaxInt64))})
		contexts = append(contexts, ctx)
	}
	for _, x := range l.ours {
		add(&x.exchange, x.method, x.ctx)
	}
	for _, x := range l.theirs {
		if x.h != nil {
			add(&x.exchange, x.h.name, &x.ctx)
		}
	}
	l.seen = seen
	return calls, contexts
}

// traceID returns the trace id of a traceparent (W3C Trace Context), or "".
func traceID(m Metadata) string {
	const version, size = len("00-"), 32
	parent := m["traceparent"]
	if len(parent) <= version+size || parent[version-1] != '-' || parent[version+size] != '-' {
		return ""
	}
	return parent[version : version+size]
}
