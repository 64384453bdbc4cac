package handshake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/internal/neterr"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// origin describes the sender of a connection, as far as the kernel reports it.
type origin struct {
	conn     net.Conn
	accepted time.Time
	reported bool // the kernel reports the processes of such connections
	// 0 if not reported, or if the process has no pid in this PID namespace
	pid int
}

// origin asks the kernel who sent a connection. It refuses other users, unless
// the configuration allows them.
func (l *Listener) origin(p *pending) (origin, error) {
	from := origin{conn: p.conn, accepted: p.accepted}
	cred, err := uds.PeerCred(p.conn)
	switch {
	case errors.Is(err, uds.ErrNotUnix), errors.Is(err, errors.ErrUnsupported):
		return from, nil
	case err != nil:
		return from, err
	}
	from.reported, from.pid = true, cred.PID
	if l.cfg.AllowOtherUsers {
		return from, nil
	}
	return from, checkUser(cred)
}

// checkUser refuses a peer of any user but this process's own.
func checkUser(cred uds.Cred) error {
	if uid := uint32(os.Geteuid()); cred.UID != uid {
		return fmt.Errorf("%w: uid %d, want %d", ErrForeignUser, cred.UID, uid)
	}
	return nil
}

// process identifies a child's process.
type process struct {
	pid   int       // 0 if the kernel cannot report it
	since time.Time // a moment before it was started
}

// checksProcess reports whether the Listener must check the process of a
// connection. The kernel must have reported it.
func (l *Listener) checksProcess(from origin) bool {
	return from.reported && !l.cfg.AllowOtherProcesses
}

// checkProcess refuses a connection unless its process is the child, or is
// shown to descend from it. child is nil if any process may connect.
func (l *Listener) checkProcess(from origin, child *process) error {
	switch {
	case !l.checksProcess(from) || child == nil || child.pid == 0:
		return nil
	case from.accepted.Before(child.since): // another process had this pid then
		return fmt.Errorf("%w: process %d connected before the child was started",
			ErrForeignProcess, from.pid)
	case from.pid == child.pid:
		return nil
	}
	if err := unixsock.PeerDescends(from.conn, child.pid); err != nil {
		return fmt.Errorf("%w: %w", ErrForeignProcess, err)
	}
	return nil
}

// awaitProcess waits for SetPID until ctx ends, because a child can connect
// before its parent knows its pid.
func (x *Expected) awaitProcess(ctx context.Context) (*process, error) {
	select {
	case <-x.pidKnown:
	case <-x.done:
		return nil, ErrUnknownPeer
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), errHelloTimeout) {
			return nil, ErrNoProcess
		}
		return nil, neterr.Context(ctx)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return &process{x.pid, x.since[PhaseConnect]}, nil
}
