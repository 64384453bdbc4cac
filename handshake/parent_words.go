package handshake

import (
	"context"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// A child may send its reason just before it exits, as a failed frame or as a
// goodbye on its control connection. The child's exit ends its connections, so
// the Listener reads them to their end. The waits below take time only if this
// process is busy, or if another process still has a connection open.

// awaitWords waits until everything from the child was read, or until ctx ends.
func (x *Expected) awaitWords(ctx context.Context) {
	x.mu.Lock()
	pid := x.pid
	x.mu.Unlock()
	x.l.awaitHandled(ctx, pid)
	x.mu.Lock()
	conversing := x.used || x.paired
	x.mu.Unlock()
	if conversing {
		select {
		case <-x.done:
		case <-ctx.Done():
		}
	}
}

// awaitHandled waits until no connection of an exited process is pending, or
// until ctx ends. If the pid of the process or of a connection is unknown (0),
// the connection counts too. Connections without input are skipped, because an
// ended connection always has input.
func (l *Listener) awaitHandled(ctx context.Context, pid int) {
	l.acceptQueued(ctx)
	var list []*pending
	l.mu.Lock()
	for e := l.pending.Front(); e != nil; e = e.Next() {
		p := e.Value.(*pending)
		if pid == 0 || p.pid == 0 || p.pid == pid {
			list = append(list, p)
		}
	}
	l.mu.Unlock()
	arrival := time.Now().Add(arrivalBound)
	for _, p := range list {
		if !awaitInput(ctx, p.conn, arrival) {
			continue
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
	}
}

// A Unix socket passes on at once what a process sends, and its end. Over TCP a
// packet may wait while the machine is busy, also on the loopback interface.
const (
	arrivalBound    = 250 * time.Millisecond
	arrivalInterval = time.Millisecond
)

// awaitInput reports whether conn has input or has ended. For a TCP connection
// it waits until the time until, because the end may be on its way.
func awaitInput(ctx context.Context, conn net.Conn, until time.Time) bool {
	_, local := conn.(*net.UnixConn)
	for !unread(conn) {
		if local || !time.Now().Before(until) ||
			wait.For(context.Background(), ctx.Done(), arrivalInterval) {
			return false
		}
	}
	return true
}

// lastWords returns the peer's goodbye on its control connection, if any.
func (p *Peer) lastWords(ctx context.Context) (bye frame.Goodbye, ok bool) {
	if p.attached == nil {
		return bye, false
	}
	select {
	case <-p.attached:
	default:
		pid := 0
		if p.process != nil {
			pid = p.process.pid
		}
		p.l.awaitHandled(ctx, pid)
	}
	p.mu.Lock()
	control := p.control
	p.mu.Unlock()
	// Without input the connection has not ended, because another process
	// keeps it open.
	if control == nil || !awaitInput(ctx, control.NetConn(), time.Now().Add(arrivalBound)) {
		return bye, false
	}
	return p.controlAnswers().goodbye(ctx)
}

// deadliner is a net.Listener whose Accept can be interrupted.
type deadliner interface{ SetDeadline(time.Time) error }

// acceptQueued waits until all connections from before the call were accepted,
// or until ctx or the Listener ends. It interrupts the accept loop, because a
// blocked Accept does not show whether it has just got a connection.
func (l *Listener) acceptQueued(ctx context.Context) {
	ln, ok := l.ln.(deadliner)
	if !ok {
		return
	}
	drained := make(chan struct{})
	l.mu.Lock()
	l.drained = append(l.drained, drained)
	ln.SetDeadline(time.Unix(1, 0))
	l.mu.Unlock()
	select {
	case <-drained:
	case <-ctx.Done():
	case <-l.ctx.Done():
	}
}

// resumeAccept ends the interruption, and returns the channels of the waiting
// acceptQueued calls. The accept loop closes them when no connection is queued.
func (l *Listener) resumeAccept() []chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	drained := l.drained
	l.drained = nil
	if ln, ok := l.ln.(deadliner); ok {
		ln.SetDeadline(time.Time{})
	}
	return drained
}
