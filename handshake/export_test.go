package handshake

import (
	"net"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// Held counts what a Listener holds. All counts are 0 when no child is expected,
// pending or attached.
type Held struct{ Expected, ByPID, Sessions, Pending, Proved int }

func (l *Listener) Held() Held {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := Held{len(l.expected), len(l.byPID), len(l.sessions), l.pending.Len(), 0}
	for e := l.pending.Front(); e != nil; e = e.Next() {
		if e.Value.(*pending).proved {
			held.Proved++
		}
	}
	return held
}

// LogEveryRefusal gives each refused connection a line in the log.
func (l *Listener) LogEveryRefusal() {
	l.refusals.mu.Lock()
	defer l.refusals.mu.Unlock()
	l.refusals.interval = 0
}

// Refusals counts refusals as a Listener does.
type Refusals struct{ r *refusals }

func NewRefusals() Refusals {
	return Refusals{&refusals{interval: refusalInterval, tallies: make(map[string]*tally)}}
}

func (r Refusals) Count(cause string) (line bool, unlogged int) {
	return r.r.count(cause, time.Now())
}

// AcceptErr is the error of the last accept.
func (l *Listener) AcceptErr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acceptErr
}

// HasInput reports whether a connection has input, and whether that is known.
func HasInput(conn net.Conn) (yes, known bool) { return hasInput(conn) }

// NewTicket returns a ticket that no Listener knows.
func NewTicket(addr transport.Addr, id string) Ticket { return Ticket{addr, id, randomSecret()} }

// Secret returns the ticket's secret.
func (t Ticket) Secret() []byte { return t.secret() }

// WithSecret returns the ticket with another secret.
func (t Ticket) WithSecret(key []byte) Ticket {
	t.secret = newSecret(key)
	return t
}

// The versions of the protocol that a side offers.

func (cfg *ListenerConfig) SetVersions(lowest, highest uint) {
	cfg.versions = versionRange{lowest, highest}
}

func (cfg *PeerConfig) SetVersions(lowest, highest uint) {
	cfg.versions = versionRange{lowest, highest}
}

// Code returns the code of the failed frame.
func (e *FailedError) Code() string { return e.code }

// HasEarly reports whether a process is noted for SetPID.
func (x *Expected) HasEarly(pid int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.early[pid]
	return ok
}

// HasUnread reports whether a pending connection has input.
func (l *Listener) HasUnread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.pending.Front(); e != nil; e = e.Next() {
		if unread(e.Value.(*pending).conn) {
			return true
		}
	}
	return false
}
