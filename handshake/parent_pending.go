package handshake

import (
	"container/list"
	"context"
	"fmt"
	"net"
	"time"
)

// pending is a connection without an accepted hello.
type pending struct {
	conn     net.Conn
	accepted time.Time
	element  *list.Element
	drop     context.CancelCauseFunc

	// Guarded by Listener.mu.
	pid    int           // 0 if it is not known
	proved bool          // its hello proved a child's secret; it waits for SetPID
	over   bool          // done is closed
	done   chan struct{} // closed when it is no longer pending
}

// When a connection must make room for others, the Listener first gives it a
// moment to send its hello. A connection with unread input gets more time,
// because thousands may come at once. The others wait in the kernel's queue
// meanwhile.
const (
	minPatience = 100 * time.Millisecond // for a connection without input
	maxPatience = time.Second            // for one with input
)

// crowdedError reports that a connection was dropped to make room for others.
type crowdedError struct{ limit int }

func (e *crowdedError) Error() string {
	return fmt.Sprintf("more than %d connections without a hello, and this is the oldest", e.limit)
}

// addPending adds a connection, and drops the oldest one if there are too many.
// The returned context ends when the new one is dropped.
func (l *Listener) addPending(conn net.Conn) (context.Context, *pending) {
	ctx, drop := context.WithCancelCause(l.ctx)
	p := &pending{conn: conn, accepted: time.Now(), drop: drop, done: make(chan struct{})}
	for !l.tryAddPending(p) {
		select {
		case <-l.room:
		case <-time.After(time.Millisecond): // patience may have ended
		}
	}
	return ctx, p
}

// tryAddPending adds p. It reports false if another connection must make room
// but cannot be dropped yet.
func (l *Listener) tryAddPending(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := max(l.cfg.MaxPending, 2*len(l.expected)) // many children may start at once
	if l.pending.Len() >= limit && l.ctx.Err() == nil {
		e := l.oldestPending()
		oldest := e.Value.(*pending)
		age := time.Since(oldest.accepted)
		if age < minPatience || (age < maxPatience && unread(oldest.conn)) {
			return false
		}
		l.pending.Remove(e)
		oldest.drop(&crowdedError{limit})
	}
	p.element = l.pending.PushBack(p)
	return true
}

// oldestPending returns the oldest connection that has not proved a secret, or
// else the oldest of all. The caller holds l.mu.
func (l *Listener) oldestPending() *list.Element {
	for e := l.pending.Front(); e != nil; e = e.Next() {
		if !e.Value.(*pending).proved {
			return e
		}
	}
	return l.pending.Front()
}

// removePending removes p. It may be called more than once.
func (l *Listener) removePending(p *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending.Remove(p.element) // does nothing if it was dropped
	if !p.over {
		p.over = true
		close(p.done)
		select {
		case l.room <- struct{}{}:
		default:
		}
	}
}

func (l *Listener) setPendingPID(p *pending, pid int) {
	l.mu.Lock()
	p.pid = pid
	l.mu.Unlock()
}

func (l *Listener) setPendingProved(p *pending) {
	l.mu.Lock()
	p.proved = true
	l.mu.Unlock()
}
