package handshake

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// Expectation says which child is to come.
type Expectation struct {
	ID     string // unique; NewID draws one
	Secret Secret // for this child alone; zero has Expect draw one, which AppendTicket tells
	Spec   []byte // the encoded spec that the child gets; see package spawnspec
	// Reserve has the child welcomed and kept waiting for its spec, until Expected.Give. Spec is of no use then.
	Reserve bool

	// OnPhase, if not nil, is called as the child enters each phase after PhaseConnect, in order and once
	// each, before WaitForPeer returns. The conversation waits for it.
	OnPhase func(Phase, time.Time)
}

// Expected is a child that is to come. Its methods may be called concurrently.
type Expected struct {
	l    *Listener
	id   string
	spec []byte
	tell func(Phase, time.Time) // OnPhase, or nil

	ctx   context.Context // ends with Cancel; ends the conversation
	stop  context.CancelFunc
	done  chan struct{} // closed when peer or err is set
	name  sync.Once
	named chan struct{} // closed by the first SetPID
	past  chan struct{} // closed when the phase is beyond PhaseAuth, in which there is nothing to wait for but ourselves

	welcomed chan struct{} // of Expectation.Reserve, else nil; closed when reserve is set

	telling sync.Mutex // held from the start of a phase until tell has returned, so that they are told in order

	mu      sync.Mutex // guards what follows; never held over input or output
	secret  *Secret    // wiped, and nil, when it has been used; a pointer, so that no %v prints it
	pid     int
	phase   Phase
	since   map[Phase]time.Time
	refused error // the last hello in this child's name that was refused, and by which process
	refPID  int
	conn    net.Conn      // on which its hello was accepted, or is to come; see Serve
	served  *served       // from Serve until its hello
	early   map[int]error // what note tells of processes that connected before SetPID
	peer    *Peer
	err     error
	taken   bool     // WaitForPeer has handed peer out
	reserve *reserve // from the welcome of a child in reserve, or the hello of one that Serve expects, until its answer
}

// Expect registers a child before it is started, so that it cannot come too early. The caller calls
// Cancel when it no longer waits.
func (l *Listener) Expect(e Expectation) (*Expected, error) {
	if err := checkID(e.ID); err != nil {
		return nil, fmt.Errorf("handshake: Expectation.ID: %w", err)
	}
	if e.Secret == (Secret{}) {
		rand.Read(e.Secret[:]) // never fails; see its documentation
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, ErrClosed
	case l.expected[e.ID] != nil || l.sessions[e.ID] != nil:
		return nil, fmt.Errorf("handshake: a child with id %s is expected, or here, already", e.ID)
	}
	x := &Expected{
		l: l, id: e.ID, spec: e.Spec, tell: e.OnPhase, secret: &e.Secret,
		done:  make(chan struct{}),
		named: make(chan struct{}),
		past:  make(chan struct{}),
		phase: PhaseConnect,
		since: map[Phase]time.Time{PhaseConnect: time.Now()},
	}
	if e.Reserve {
		x.welcomed = make(chan struct{})
	}
	x.ctx, x.stop = context.WithCancel(l.ctx)
	l.expected[e.ID] = x
	return x, nil
}

// AppendTicket appends the child's ticket, as [Ticket.Encode] writes it, for an address at which the Listener listens. With a
// secret that Expect has drawn, what it returns is the only copy besides the Listener's own, which is wiped when it has been used,
// or the wait has ended; the caller wipes its own. When that has happened it appends nothing.
func (x *Expected) AppendTicket(b []byte, addr transport.Addr) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.secret == nil {
		return b
	}
	return appendTicket(b, x.id, x.secret, addr)
}

// WaitForPeer waits until the child is ready and returns it. It fails when the child's handshake fails
// for good ([*Error]), when ctx ends, or when Cancel or the Listener's Close is called. A hello in the
// child's name that is refused does not end the wait, as anybody could have sent it, unless the kernel
// says that it came from the child's own process (see SetPID). A connection of that process that ends, or says something
// else, before a hello of the child was accepted ends the wait too.
func (x *Expected) WaitForPeer(ctx context.Context) (*Peer, error) {
	select {
	case <-x.done:
	case <-ctx.Done():
		select {
		case <-x.done: // a peer that is ready wins over a context that has ended
		default:
			return nil, &Error{x.Phase(), contextError(ctx)}
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

// Done is closed when WaitForPeer would return at once.
func (x *Expected) Done() <-chan struct{} { return x.done }

// SetPID tells which process the child is, once it is started, and is called before that process is reaped. On Unix sockets
// the kernel tells the pid of whoever connects, so that a refusal of this process can be told from a refusal of a stranger,
// and a hello is let in from this process and its descendants alone (see ListenerConfig.AllowOtherProcesses). A hello
// that is faster waits for this call, for HelloTimeout at most; then the wait for the child ends with [ErrNoProcess].
//
// A pid below 1 says that the child is no process whose number the kernel would tell: then its secret, and the user that
// it runs as, are all that is asked for.
func (x *Expected) SetPID(pid int) {
	defer x.name.Do(func() { close(x.named) }) // last: what follows tells of the phase before
	if pid < 1 {
		return // 0 is the pid of everybody of whom the kernel does not tell it
	}
	x.l.mu.Lock()
	x.mu.Lock()
	x.forgetPID()
	x.pid = pid
	if x.l.expected[x.id] == x {
		x.l.byPID[pid] = x
	}
	early, came := x.early[pid]
	x.early = nil
	refused, mine := x.refused, x.refPID == pid
	x.mu.Unlock()
	x.l.mu.Unlock()
	if came {
		x.enter(PhaseHello)
	}
	switch {
	case refused != nil && mine:
		x.resolve(nil, refused)
	case early != nil:
		x.refuse(early, pid)
	}
}

// maxEarly bounds, in processes, what is kept for SetPID. A child seldom needs less time to connect than its
// parent needs to learn its pid.
const maxEarly = 64

// noteEarly keeps what note tells for SetPID.
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

const (
	// lookBound is how long Hear waits for what was read a moment before, and takes microseconds to look at.
	lookBound = 20 * time.Millisecond
	// lookAgain is the time between looks at whether a connection has been read, of which nothing tells.
	lookAgain = time.Millisecond
)

// Hear waits until it is known what comes of all that the child had said when it was called, or until ctx ends: a
// child that has died may have said something a moment before. It waits for nothing but this process's own
// goroutines, and is not for a child that [Expected.Serve] expects: of that one nobody reads but Answer. For connections on which
// there is nothing to read any more, whoever keeps them open, it waits 20 ms, and as long for the one that is known to be the
// child's, as what was read of them may be being looked at.
func (x *Expected) Hear(ctx context.Context) {
	x.mu.Lock()
	pid := x.pid
	x.mu.Unlock()
	x.l.hearQueued(ctx, pid)
	x.mu.Lock()
	conn := x.conn
	phase := x.phase
	x.mu.Unlock()
	if phase == PhaseAuth { // the welcome is being made
		select {
		case <-x.past:
		case <-x.done:
		case <-ctx.Done():
		}
	}
	if conn == nil {
		return
	}
	awaitRead(ctx, conn, x.done, x.welcomed)
	looking, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	select {
	case <-x.done:
	case <-x.welcomed: // it waits for its spec, and nobody reads
	case <-looking.Done():
	}
}

// hearQueued waits until it is known what comes of the connections that a process has made, or may have, and which have not said who
// they are, or until ctx ends. What is there is read of all of them first, so that there is one wait for the silent.
func (l *Listener) hearQueued(ctx context.Context, pid int) {
	l.acceptQueued(ctx)
	list := l.pendingOf(pid)
	for _, p := range list {
		select {
		case <-p.noted:
		case <-ctx.Done():
		}
		awaitRead(ctx, p.conn, p.done, nil)
	}
	looking, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	for _, p := range list {
		select {
		case <-p.done:
		case <-looking.Done():
		}
	}
}

// awaitRead waits until nothing is left to read on a connection, until one of the channels is closed, of which the second may be nil,
// or until ctx ends. A connection's end is left for ever: of such a one it waits for the rest.
func awaitRead(ctx context.Context, conn net.Conn, done, welcomed <-chan struct{}) {
	for unread(conn) {
		select {
		case <-done:
			return
		case <-welcomed:
			return
		case <-ctx.Done():
			return
		case <-time.After(lookAgain):
		}
	}
}

// accepted notes on which connection the child's hello came.
func (x *Expected) accepted(conn net.Conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conn = conn
}

// forgetPID removes the child from those that are known by pid. The caller holds both locks.
func (x *Expected) forgetPID() {
	if x.l.byPID[x.pid] == x {
		delete(x.l.byPID, x.pid)
	}
}

// Phase returns how far the child has come.
func (x *Expected) Phase() Phase {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.phase
}

// Since returns when each phase that the child has come to began. PhaseConnect begins with Expect.
func (x *Expected) Since() map[Phase]time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := make(map[Phase]time.Time, len(x.since))
	for p, t := range x.since {
		m[p] = t
	}
	return m
}

// Refused returns why the last hello in this child's name was refused, or nil.
func (x *Expected) Refused() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refused
}

// Cancel forgets the child: a hello that comes later is refused, a handshake under way ends, and a
// peer that nobody took with WaitForPeer is closed. After WaitForPeer has returned a peer Cancel does
// nothing to it.
func (x *Expected) Cancel() {
	x.stop()
	cancelled := &Error{x.Phase(), context.Canceled}
	x.dismiss(cancelled)
	x.resolve(nil, cancelled)
	x.mu.Lock()
	var left *Peer
	if x.peer != nil && !x.taken {
		left, x.peer, x.err = x.peer, nil, cancelled // WaitForPeer must not hand it out any more
	}
	x.mu.Unlock()
	if left != nil {
		left.Abort()
	}
}

// enter notes that the child has come to a phase. There is no way back: its process may have other
// connections.
func (x *Expected) enter(p Phase) {
	x.telling.Lock()
	defer x.telling.Unlock()
	now := time.Now()
	x.mu.Lock()
	forward := p.beyond(x.phase)
	if forward {
		if p.beyond(PhaseAuth) && !x.phase.beyond(PhaseAuth) {
			close(x.past)
		}
		x.phase, x.since[p] = p, now
	}
	x.mu.Unlock()
	if forward && x.tell != nil {
		x.tell(p, now)
	}
}

// refuse notes that a hello in this child's name, or a connection of its process, was refused. When it was
// the child itself, that is the end, unless a hello of it was accepted before: it may have more connections.
func (x *Expected) refuse(err error, pid int) {
	x.mu.Lock()
	if x.secret == nil {
		x.mu.Unlock()
		return
	}
	x.refused, x.refPID = err, pid
	mine := pid != 0 && pid == x.pid
	x.mu.Unlock()
	if mine {
		x.resolve(nil, err)
	}
}

// resolve sets the outcome, once. It reports whether this call did.
func (x *Expected) resolve(peer *Peer, err error) bool {
	x.l.mu.Lock()
	if x.l.expected[x.id] == x {
		delete(x.l.expected, x.id)
	}
	x.mu.Lock()
	x.forgetPID()
	x.l.mu.Unlock()
	defer x.mu.Unlock()
	x.wipe()
	if x.peer != nil || x.err != nil {
		return false
	}
	x.peer, x.err = peer, err
	close(x.done)
	return true
}

// wipe forgets the secret. The caller holds x.mu.
func (x *Expected) wipe() {
	x.secret.wipe()
	x.secret = nil
}

// contextError says how a context has ended and why, for errors.Is to find both.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}
