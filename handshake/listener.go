package handshake

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// Defaults of ListenerConfig.
const (
	DefaultHelloTimeout = 10 * time.Second
	DefaultMaxPending   = 1024
)

// ListenerConfig has the settings of a Listener. Its zero value is ready to use.
type ListenerConfig struct {
	// Identity is who the parent is; what it leaves open is filled in for this process.
	Identity Identity
	// Versions are the protocol versions that the parent speaks; zero means those of this package.
	Versions Range
	// Limit is a channel's limit, in bytes, once the child is known; 0 means transport.DefaultLimit.
	Limit int
	// HelloTimeout is how long a connection may take to say a whole hello, over TLS with the TLS handshake before it; 0 means
	// DefaultHelloTimeout.
	HelloTimeout time.Duration
	// MaxPending is how many connections may be in that state at once, or twice as many as there are
	// children expected if that is more; 0 means DefaultMaxPending. One more drops the oldest of them, those that
	// know a child's secret last, so that strangers cannot shut a child out.
	MaxPending int
	// AllowOtherUsers accepts children that run as other users of the machine on Unix sockets. Otherwise a connection
	// of any user but this process's own, root among them, is refused where the kernel tells (see uds.PeerCred).
	AllowOtherUsers bool
	// AllowOtherProcesses accepts a child's hello, and its control connection, from whatever process knows its secret.
	// Otherwise on Unix sockets, where the kernel tells, it must be the process that SetPID was
	// called with, or one that is shown to descend from it (see uds.PeerDescends): a wrapper may start the child.
	AllowOtherProcesses bool
	// Logger gets a line at level Warn for refused connections and for each failing accept; nil logs nothing. Of refusals for
	// one cause the first has a line, and then one in ten seconds; its keys are "cause" (one of a dozen), "remote" (the
	// address), "pid" (0 where the kernel does not tell), "reason", and "unlogged", how many with that cause had none since the last, if any.
	// Close logs, by "cause", the "unlogged" that are left.
	Logger *slog.Logger
}

// Listener is the parent's accept loop and its register of expected children. Make one with [Listen].
// Its methods may be called concurrently.
type Listener struct {
	cfg  ListenerConfig
	ln   net.Listener
	log  *slog.Logger
	self Identity

	refusals refusals
	room     chan struct{} // told when a connection is no longer pending

	ctx  context.Context // ends with Close, for the reason ErrClosed; ends every conversation
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // the accept loop and the conversations

	mu        sync.Mutex // guards what follows; never held over input or output
	closed    bool
	expected  map[string]*Expected   // by id, until a hello has used the secret
	byPID     map[int]*Expected      // the same, where the pid is known
	reserves  map[*Expected]struct{} // children that were welcomed, or were given their connection, and have not answered
	sessions  map[string]*Peer       // by id: children that may attach a control connection
	pending   *list.List             // of *pending: connections without an accepted hello, oldest first
	acceptErr error                  // why the last accept failed; nil after one that did not
	empty     []chan struct{}        // closed when everything that was queued has been accepted; see acceptQueued
}

// Listen starts to accept children on ln, which it takes over. Close ends it.
func Listen(ln net.Listener, cfg ListenerConfig) (*Listener, error) {
	cfg.Versions = cfg.Versions.orDefault()
	switch {
	case !cfg.Versions.valid():
		return nil, fmt.Errorf("handshake: ListenerConfig.Versions: %s is no range", cfg.Versions)
	case cfg.HelloTimeout < 0:
		return nil, fmt.Errorf("handshake: ListenerConfig.HelloTimeout: %v is negative", cfg.HelloTimeout)
	case cfg.MaxPending < 0:
		return nil, fmt.Errorf("handshake: ListenerConfig.MaxPending: %d is negative", cfg.MaxPending)
	}
	if cfg.HelloTimeout == 0 {
		cfg.HelloTimeout = DefaultHelloTimeout
	}
	if cfg.MaxPending == 0 {
		cfg.MaxPending = DefaultMaxPending
	}
	l := &Listener{
		cfg:      cfg,
		ln:       ln,
		log:      cfg.Logger,
		self:     cfg.Identity.orThisProcess(),
		expected: make(map[string]*Expected),
		byPID:    make(map[int]*Expected),
		sessions: make(map[string]*Peer),
		reserves: make(map[*Expected]struct{}),
		pending:  list.New(),
	}
	if err := l.self.check(); err != nil {
		return nil, fmt.Errorf("handshake: ListenerConfig.Identity: %w", err)
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.room = make(chan struct{}, 1)
	l.refusals = refusals{log: l.log, interval: refusalInterval, tallies: make(map[cause]*tally)}
	l.ctx, l.stop = context.WithCancelCause(context.Background())
	l.wg.Go(l.acceptLoop)
	return l, nil
}

// Addr is where the Listener listens.
func (l *Listener) Addr() transport.Addr { return transport.AddrOf(l.ln.Addr()) }

// Identity is who the Listener says that it is.
func (l *Listener) Identity() Identity { return l.self }

// Close stops accepting, ends every handshake under way with [ErrClosed], and waits for its
// goroutines. Peers that were handed out live on.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	waiting := make([]*Expected, 0, len(l.expected))
	for _, x := range l.expected {
		waiting = append(waiting, x)
	}
	reserves := slices.Collect(maps.Keys(l.reserves))
	l.mu.Unlock()
	l.stop(ErrClosed)
	err := l.ln.Close()
	for _, x := range waiting {
		x.resolve(nil, &Error{x.Phase(), ErrClosed})
	}
	for _, x := range reserves {
		x.dismiss(&Error{x.Phase(), ErrClosed})
	}
	l.wg.Wait()
	l.refusals.close()
	return err
}

// AcceptErr returns why connections cannot be accepted at this moment, or nil: when the process is
// out of descriptors, say.
func (l *Listener) AcceptErr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acceptErr
}

// The pause after an accept that failed doubles from one to the other.
const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// acceptLoop lives until Close. An accept that fails, for want of descriptors or memory, is tried
// again after a pause: the connections wait in the kernel's queue meanwhile.
func (l *Listener) acceptLoop() {
	pause := minPause
	var empty []chan struct{}
	for {
		if len(empty) > 0 && !queued(l.ln) {
			for _, c := range empty {
				close(c)
			}
			empty = nil
		}
		conn, err := l.ln.Accept()
		if err != nil && l.ctx.Err() != nil {
			return // Close
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			empty = append(empty, l.resumeAccept()...)
			continue
		}
		l.mu.Lock()
		l.acceptErr = err
		l.mu.Unlock()
		if err == nil {
			pause = minPause
			ctx, pending := l.addPending(conn)
			l.wg.Go(func() { l.serve(ctx, conn, pending) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return // somebody else's doing; AcceptErr tells
		}
		l.log.Warn("handshake: accept failed, trying again", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// deadliner is what both transports' listeners have.
type deadliner interface{ SetDeadline(time.Time) error }

// acceptQueued returns when all connections have been accepted that were made before the call, or when ctx
// ends. An accept that is waiting is interrupted for that, as nothing else tells whether it has just returned.
func (l *Listener) acceptQueued(ctx context.Context) {
	ln, ok := l.ln.(deadliner)
	if !ok {
		return
	}
	empty := make(chan struct{})
	l.mu.Lock()
	l.empty = append(l.empty, empty)
	ln.SetDeadline(time.Unix(1, 0))
	l.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	case <-l.ctx.Done():
	}
}

// resumeAccept ends the interruption and returns who waits for it.
func (l *Listener) resumeAccept() []chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	empty := l.empty
	l.empty = nil
	if ln, ok := l.ln.(deadliner); ok {
		ln.SetDeadline(time.Time{})
	}
	return empty
}

// pending is a connection that has not said who it is.
type pending struct {
	conn     net.Conn
	accepted time.Time
	element  *list.Element
	drop     context.CancelCauseFunc
	pid      int           // 0 when it is not known
	proved   bool          // it knows a child's secret, and waits to be told which process the child is
	noted    chan struct{} // closed when the child whose it is has been told of it
	done     chan struct{} // closed when it is no longer pending
	over     bool          // done is closed
}

// A connection is not dropped for others before it had a moment to say its hello, and before what it has said was looked at,
// which may take a while when thousands come at once: the others wait in the kernel's queue meanwhile.
const (
	leastPatience = 100 * time.Millisecond // with one that has said nothing
	mostPatience  = time.Second            // with one of which something is not read yet
)

// addPending counts a connection among those that have not said who they are, and drops the oldest
// when they are too many. The context ends when this one is dropped.
func (l *Listener) addPending(conn net.Conn) (context.Context, *pending) {
	ctx, drop := context.WithCancelCause(l.ctx)
	p := &pending{conn: conn, accepted: time.Now(), drop: drop, noted: make(chan struct{}), done: make(chan struct{})}
	for !l.tryAddPending(p) {
		select {
		case <-l.room:
		case <-time.After(time.Millisecond): // nothing tells that one has been looked at
		}
	}
	return ctx, p
}

// tryAddPending adds a connection, unless the one that is to be dropped for it cannot be dropped yet.
func (l *Listener) tryAddPending(p *pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := max(l.cfg.MaxPending, 2*len(l.expected)) // a mass start is no attack
	if l.pending.Len() >= limit && l.ctx.Err() == nil {
		e := l.leastWorth()
		oldest := e.Value.(*pending)
		age := time.Since(oldest.accepted)
		if age < leastPatience || (age < mostPatience && unread(oldest.conn)) {
			return false
		}
		l.pending.Remove(e)
		oldest.drop(&crowdedError{limit})
	}
	p.element = l.pending.PushBack(p)
	return true
}

// leastWorth returns the oldest of the pending connections, before those that know a secret. The caller holds l.mu.
func (l *Listener) leastWorth() *list.Element {
	for e := l.pending.Front(); e != nil; e = e.Next() {
		if !e.Value.(*pending).proved {
			return e
		}
	}
	return l.pending.Front()
}

// removePending may be called more than once.
func (l *Listener) removePending(p *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending.Remove(p.element) // does nothing when it was dropped
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

// pendingOf returns those of a process, and those that may be; 0 is one that is not known.
func (l *Listener) pendingOf(pid int) (list []*pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.pending.Front(); e != nil; e = e.Next() {
		if p := e.Value.(*pending); pid == 0 || p.pid == 0 || p.pid == pid {
			list = append(list, p)
		}
	}
	return list
}
