package call

import (
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
func (l *looks) Open() (calls []inspect.Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, now := make(map[seenCall]time.Time), time.Now()
	add := func(x *exchange, method string) {
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
			Received: int64(x.in.received) - overhead*x.in.count})
	}
	for _, x := range l.ours {
		add(&x.exchange, x.method)
	}
	for _, x := range l.theirs {
		if x.h != nil {
			add(&x.exchange, x.h.name)
		}
	}
	l.seen = seen
	return calls
}
