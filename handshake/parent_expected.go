package handshake

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/neterr"
)

// Expectation describes a child before its start.
type Expectation struct {
	// Spec is the encoded spec for the child; see package spawnspec.
	Spec []byte
	// OnPhase, if not nil, is called as the child enters each phase after
	// PhaseConnect, in order and once each, before WaitForPeer returns. The
	// handshake waits for it.
	OnPhase func(Phase, time.Time)
	// Internal has settings for this module only.
	Internal access.ExpectOptions
}

// Expected is a child that may connect. Its methods may be called concurrently.
type Expected struct {
	l       *Listener
	id      string
	secret  secret
	spec    []byte
	onPhase func(Phase, time.Time) // or nil

	// ended by Cancel and by the Listener's Close; ends the conversation
	ctx      context.Context
	stop     context.CancelFunc
	done     chan struct{} // closed when peer or err is set
	pidOnce  sync.Once
	pidKnown chan struct{} // closed by the first SetPID

	// held from the start of a phase until onPhase returns, so that its calls
	// are in order
	phaseMu sync.Mutex

	mu         sync.Mutex // guards what follows; never held over input or output
	used       bool       // a hello has used the secret, or the outcome is set
	pid        int
	early      map[int]error // by pid: processes that connected before SetPID, and refusals or nil
	phase      Phase
	since      map[Phase]time.Time // when each phase began
	refused    error               // of the last refused hello in this child's name
	refusedPID int                 // of the process that sent it
	paired     bool                // it is connected by a pair; see internals.UsePair
	welcomed   chan struct{}       // of a spare, else nil; closed when waiting is set
	waiting    *conversation       // of a spare, from its welcome until its spec
	timings    access.Timings      // from the child's ready
	peer       *Peer
	err        error
	taken      bool // WaitForPeer has returned peer
}

// Expect registers a child. Then the caller starts the child with the result's
// Ticket, and calls SetPID. In the end it calls Cancel.
func (l *Listener) Expect(e Expectation) (*Expected, error) {
	if e.Internal.Ticket != "" {
		t, err := ParseTicket(e.Internal.Ticket)
		if err != nil {
			return nil, err
		}
		return l.expect(t.ID, t.secret, e)
	}
	return l.expect(NewID(), randomSecret(), e)
}

func (l *Listener) expect(id string, key secret, e Expectation) (*Expected, error) {
	x := &Expected{
		l: l, id: id, secret: key, spec: e.Spec, onPhase: e.OnPhase,
		done:     make(chan struct{}),
		pidKnown: make(chan struct{}),
		phase:    PhaseConnect,
		since:    map[Phase]time.Time{PhaseConnect: time.Now()},
	}
	x.ctx, x.stop = context.WithCancel(l.ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("handshake: %w", ErrListenerClosed)
	}
	l.expected[id] = x
	return x, nil
}

// Ticket returns the child's ticket, with the Listener's address. If children
// reach the Listener at another address, the caller changes Addr.
func (x *Expected) Ticket() Ticket { return Ticket{x.l.Addr(), x.id, x.secret} }

// WaitForPeer waits until the child is ready and returns it. It fails with an
// [*Error] when the child's handshake fails, when ctx ends, or when Cancel or
// the Listener's Close is called.
//
// A refused hello with the child's id does not end the wait, because anybody
// could have sent it. If the kernel reports the sender, and it is the child's
// own process, the wait does end; see SetPID. It also ends when a connection of
// this process ends or sends anything but a hello. After an accepted hello of
// the child, no refusal ends the wait.
func (x *Expected) WaitForPeer(ctx context.Context) (*Peer, error) {
	select {
	case <-x.done:
	case <-ctx.Done():
		select {
		case <-x.done: // a peer that is ready wins over a context that has ended
		default:
			return nil, &Error{x.Phase(), neterr.Context(ctx)}
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		return nil, x.err
	}
	x.taken = true
	return x.peer, nil
}

// Done returns a channel. It is closed when WaitForPeer would return at once.
func (x *Expected) Done() <-chan struct{} { return x.done }

// Phase returns the current phase of the child.
func (x *Expected) Phase() Phase {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.phase
}

// SetPID sets the process id of the child. The caller calls it after the start
// of the child, before the process is reaped. On Unix sockets the kernel
// reports the process id of each client, so only this process and its
// descendants can use the secret (see ListenerConfig.AllowOtherProcesses). If
// the child connects before this call, it waits for the call, for HelloTimeout
// at most. After this time WaitForPeer fails with [ErrNoProcess].
//
// A pid below 1 means that the kernel cannot report the child's process. Then
// only the secret and the user are checked.
func (x *Expected) SetPID(pid int) {
	// This is done last, because then the conversation may enter later phases
	// than the code below does.
	defer x.pidOnce.Do(func() { close(x.pidKnown) })
	if pid < 1 {
		return // the kernel reports 0 for every process without a pid here
	}
	x.l.mu.Lock()
	x.mu.Lock()
	x.forgetPID()
	x.pid = pid
	if x.l.expected[x.id] == x {
		x.l.byPID[pid] = x
	}
	early, connected := x.early[pid]
	x.early = nil
	refused, own := x.refused, x.refusedPID == pid
	x.mu.Unlock()
	x.l.mu.Unlock()
	if connected {
		x.enter(PhaseHello)
	}
	switch {
	case refused != nil && own:
		x.resolve(nil, refused)
	case early != nil:
		x.refuse(early, pid)
	}
}

// Cancel forgets the child. It refuses a later hello, ends a handshake in
// progress, and closes the peer if WaitForPeer has not returned it. It does not
// affect a peer after WaitForPeer has returned it.
func (x *Expected) Cancel() {
	x.stop()
	cancelled := &Error{x.Phase(), context.Canceled}
	x.resolve(nil, cancelled)
	x.mu.Lock()
	var left *Peer
	if x.peer != nil && !x.taken {
		left, x.peer, x.err = x.peer, nil, cancelled // WaitForPeer must not return it any more
	}
	x.mu.Unlock()
	if left != nil {
		left.Abort()
	}
}

// noteProcess records that a process has connected, or why its connection was
// refused. If the pid belongs to no child, each child without SetPID records
// it.
func (l *Listener) noteProcess(pid int, refused error) {
	if pid < 1 {
		return
	}
	l.mu.Lock()
	x := l.byPID[pid]
	if x == nil {
		for _, other := range l.expected {
			other.noteEarly(pid, refused)
		}
	}
	l.mu.Unlock()
	switch {
	case x == nil:
	case refused == nil:
		x.enter(PhaseHello)
	default:
		x.refuse(refused, pid)
	}
}

// maxEarly bounds the processes in Expected.early. A child rarely connects
// before its parent knows its pid.
const maxEarly = 64

func (x *Expected) noteEarly(pid int, refused error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.pid != 0 || len(x.early) == maxEarly {
		return
	}
	if x.early == nil {
		x.early = make(map[int]error)
	}
	if x.early[pid] == nil {
		x.early[pid] = refused
	}
}

// forgetPID removes the child from Listener.byPID. The caller holds both locks.
func (x *Expected) forgetPID() {
	if x.l.byPID[x.pid] == x {
		delete(x.l.byPID, x.pid)
	}
}

// unusedSecret returns the secret, or nil if it was used.
func (x *Expected) unusedSecret() secret {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.used {
		return nil
	}
	return x.secret
}

func (x *Expected) isSpare() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.welcomed != nil
}

// useSecret marks the secret as used: the next hello with this child's id is
// unknown. It returns false if another hello was faster, or if the outcome is
// set.
func (x *Expected) useSecret() bool {
	x.l.mu.Lock()
	defer x.l.mu.Unlock()
	if x.l.expected[x.id] != x {
		return false
	}
	delete(x.l.expected, x.id)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.used = true
	return true
}

// enter records that the child has entered a phase. It ignores a phase before
// the current one, because the process may have other connections.
func (x *Expected) enter(p Phase) {
	x.phaseMu.Lock()
	defer x.phaseMu.Unlock()
	now := time.Now()
	x.mu.Lock()
	forward := p.after(x.phase)
	if forward {
		x.phase, x.since[p] = p, now
	}
	x.mu.Unlock()
	if forward && x.onPhase != nil {
		x.onPhase(p, now)
	}
}

// refuse records that a hello with this child's id, or a connection of its
// process, was refused. If it came from the child's process, the wait ends.
// After an accepted hello refuse does nothing, because the child may have more
// connections.
func (x *Expected) refuse(err error, pid int) {
	x.mu.Lock()
	if x.used {
		x.mu.Unlock()
		return
	}
	x.refused, x.refusedPID = err, pid
	own := pid != 0 && pid == x.pid
	x.mu.Unlock()
	if own {
		x.resolve(nil, err)
	}
}

// resolve sets the outcome, once. It reports whether this call set it.
func (x *Expected) resolve(peer *Peer, err error) bool {
	x.l.mu.Lock()
	if x.l.expected[x.id] == x {
		delete(x.l.expected, x.id)
	}
	x.mu.Lock()
	x.forgetPID()
	x.l.mu.Unlock()
	defer x.mu.Unlock()
	x.used, x.waiting = true, nil
	if x.peer != nil || x.err != nil {
		return false
	}
	x.peer, x.err = peer, err
	close(x.done)
	return true
}
