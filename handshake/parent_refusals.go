package handshake

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// causes are the kinds of refusals that the log counts apart.
var causes = []struct {
	err  error
	name string
}{
	{errHelloTimeout, "no hello in time"}, // nothing came, or only a part
	{transport.ErrPeerGone, "cut"},        // it ended before a whole hello had come
	{transport.ErrProtocol, "malformed"},  // no hello, or an unreadable one
	{ErrUnknownPeer, "unknown id"},
	{ErrBadMAC, "wrong secret"},
	{ErrForeignUser, "other user"},
	{ErrForeignProcess, "other process"},
	{ErrNoProcess, "process not named"}, // by SetPID
}

func causeOf(err error) string {
	var crowded *crowdedError
	var size *transport.SizeError
	switch {
	case errors.As(err, &crowded):
		return "crowded out" // by others without a hello
	case errors.As(err, &size):
		return "too large"
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return "other" // the kernel could not be asked, for example
}

// refusalInterval is the shortest time between two lines for one cause, because
// a client that floods the Listener must not fill the log.
const refusalInterval = 10 * time.Second

// refusals counts refused connections by cause.
type refusals struct {
	mu       sync.Mutex // guards what follows
	interval time.Duration
	tallies  map[string]*tally
}

type tally struct {
	logged   time.Time // when the last line was written
	unlogged int       // refusals since
}

// count counts a refusal. It reports whether the refusal gets a line in the log,
// and how many had none since the last line.
func (r *refusals) count(cause string, now time.Time) (line bool, unlogged int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tallies[cause]
	if t != nil && now.Sub(t.logged) < r.interval {
		t.unlogged++
		return false, 0
	}
	if t != nil {
		unlogged = t.unlogged
	}
	r.tallies[cause] = &tally{logged: now}
	return true, unlogged
}

// logRefusal logs a refusal, unless the Listener's own end is its reason.
func (l *Listener) logRefusal(conn net.Conn, pid int, err error) {
	if errors.Is(err, ErrListenerClosed) {
		return
	}
	cause := causeOf(err)
	line, unlogged := l.refusals.count(cause, time.Now())
	if !line {
		return
	}
	args := []any{"cause", cause, "remote", conn.RemoteAddr().String(), "pid", pid, "reason", err}
	if unlogged > 0 {
		args = append(args, "unlogged", unlogged)
	}
	l.cfg.Logger.Warn("handshake: refused a connection", args...)
}
