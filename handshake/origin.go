package handshake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/transport/uds"
)

// origin is where a connection comes from, as far as the kernel tells.
type origin struct {
	conn     net.Conn
	accepted time.Time
	told     bool // the kernel tells the process of such connections
	pid      int  // the process; 0 when it is not told, or has no number in this process's PID namespace
}

// origin asks the kernel, once for a connection, and refuses other users.
func (l *Listener) origin(p *pending) (origin, error) {
	from := origin{conn: p.conn, accepted: p.accepted}
	cred, err := uds.PeerCred(p.conn)
	switch {
	case errors.Is(err, uds.ErrNotUnix), errors.Is(err, errors.ErrUnsupported):
		return from, nil
	case err != nil:
		return from, err
	}
	from.told, from.pid = true, cred.PID
	if l.cfg.AllowOtherUsers {
		return from, nil
	}
	return from, checkUser(cred)
}

// checkUser refuses a peer that does not run as this process's own user.
func checkUser(cred uds.Cred) error {
	if uid := uint32(os.Geteuid()); cred.UID != uid {
		return fmt.Errorf("%w: uid %d, want %d", ErrForeignUser, cred.UID, uid)
	}
	return nil
}

// process is what is known of the process that a child is.
type process struct {
	pid   int       // 0: it has no number that the kernel would tell
	since time.Time // a moment before it was started
}

// checkProcess refuses a connection that comes from a process which is neither the child's nor shown to descend from
// it. It costs nothing where the number is the child's.
func (l *Listener) checkProcess(from origin, child *process) error {
	switch {
	case !l.tellsProcess(from) || child == nil || child.pid == 0:
		return nil
	case from.accepted.Before(child.since): // and the number was another's then
		return fmt.Errorf("%w: process %d connected before the child was started", ErrForeignProcess, from.pid)
	case from.pid == child.pid:
		return nil
	}
	if err := uds.PeerDescends(from.conn, child.pid); err != nil {
		return fmt.Errorf("%w: %w", ErrForeignProcess, err)
	}
	return nil
}

// tellsProcess tells whether it matters which process a connection comes from, and can be known.
func (l *Listener) tellsProcess(from origin) bool { return from.told && !l.cfg.AllowOtherProcesses }

// awaitProcess waits until it is known which process the child is: the child can be faster than the news of its start.
// ctx bounds the wait.
func (x *Expected) awaitProcess(ctx context.Context) (*process, error) {
	select {
	case <-x.named:
	case <-x.done:
		return nil, ErrUnknownPeer
	case <-ctx.Done():
		if context.Cause(ctx) == errHelloTimeout {
			return nil, ErrNoProcess
		}
		return nil, contextError(ctx)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return &process{x.pid, x.since[PhaseConnect]}, nil
}
