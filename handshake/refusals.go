package handshake

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// cause is why a connection was refused: one of the few kinds that the log tells apart.
type cause string

const (
	causeSilent  cause = "no hello in time" // nothing came, or not all of it
	causeCrowded cause = "crowded out"      // too many others said nothing either
	causeCut     cause = "cut"              // it ended before a whole hello had come
	causeSize    cause = "too large"
	causeWords   cause = "malformed" // no hello, or none that can be read
	causeID      cause = "unknown id"
	causeSecret  cause = "wrong secret"
	causeUser    cause = "other user"
	causeProcess cause = "other process"
	causeUnnamed cause = "process not named" // by SetPID
	causeOther   cause = "other"             // the kernel could not be asked, say
)

// crowdedError drops the oldest of too many connections.
type crowdedError struct{ limit int }

func (e *crowdedError) Error() string {
	return fmt.Sprintf("more than %d connections without a hello, and this is the oldest", e.limit)
}

func causeOf(err error) cause {
	var crowded *crowdedError
	var size *transport.SizeError
	switch {
	case errors.Is(err, errHelloTimeout):
		return causeSilent
	case errors.As(err, &crowded):
		return causeCrowded
	case errors.Is(err, transport.ErrPeerGone):
		return causeCut
	case errors.As(err, &size):
		return causeSize
	case errors.Is(err, transport.ErrProtocol):
		return causeWords
	case errors.Is(err, ErrUnknownPeer):
		return causeID
	case errors.Is(err, ErrBadMAC):
		return causeSecret
	case errors.Is(err, ErrForeignUser):
		return causeUser
	case errors.Is(err, ErrForeignProcess):
		return causeProcess
	case errors.Is(err, ErrNoProcess):
		return causeUnnamed
	}
	return causeOther
}

// refusalInterval is the least time between two lines of one cause: whoever can connect must not be able to fill the
// log.
const refusalInterval = 10 * time.Second

// refusals writes the log of refused connections: the first of a cause at once, and then one line in an interval, which
// says how many had none. What is left over is told at the end.
type refusals struct {
	log *slog.Logger

	mu       sync.Mutex // guards what follows; never held while a line is written
	interval time.Duration
	tallies  map[cause]*tally
}

type tally struct {
	logged   time.Time // when the last line was written
	unlogged int       // how many had none since
}

// count counts a refusal. It tells whether it gets a line, and how many before it had none.
func (r *refusals) count(c cause, now time.Time) (line bool, unlogged int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tallies[c]
	switch {
	case t == nil:
		r.tallies[c] = &tally{logged: now}
		return true, 0
	case now.Sub(t.logged) < r.interval:
		t.unlogged++
		return false, 0
	}
	unlogged = t.unlogged
	*t = tally{logged: now}
	return true, unlogged
}

func (l *Listener) logRefusal(conn net.Conn, pid int, err error) {
	c := causeOf(err)
	line, unlogged := l.refusals.count(c, time.Now())
	if !line {
		return
	}
	args := []any{"cause", string(c), "remote", conn.RemoteAddr().String(), "pid", pid, "reason", err}
	if unlogged > 0 {
		args = append(args, "unlogged", unlogged)
	}
	l.log.Warn("handshake: refused a connection", args...)
}

// close tells what had no line.
func (r *refusals) close() {
	r.mu.Lock()
	left := make(map[cause]int)
	var causes []cause
	for c, t := range r.tallies {
		if t.unlogged > 0 {
			left[c], t.unlogged = t.unlogged, 0
			causes = append(causes, c)
		}
	}
	r.mu.Unlock()
	slices.Sort(causes)
	for _, c := range causes {
		r.log.Warn("handshake: refused more connections", "cause", string(c), "unlogged", left[c])
	}
}
