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

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/transport"
)

const defaultMaxPending = 1024

// ListenerConfig has the settings of a Listener. Its zero value is ready to use.
type ListenerConfig struct {
	// Identity is how the parent presents itself. Empty fields are filled in for
	// this process.
	Identity Identity
	// MaxFrameSize is a channel's limit, in bytes, once the child is known. 0 means
	// transport.DefaultMaxFrameSize.
	MaxFrameSize int
	// Ring lets all messages travel through a ring in shared memory, if the child
	// supports it; see [transport.Channel.UsesRing].
	Ring bool
	// HelloTimeout is how long a new connection may take to send a whole hello,
	// the TLS handshake included. 0 means 10 seconds.
	HelloTimeout time.Duration
	// MaxPending is how many connections may be without an accepted hello at
	// once. 0 means 1024. It is at least twice the number of expected children.
	// When it is reached, a new connection replaces the oldest one, so that
	// unauthenticated clients cannot shut a child out. A connection that knows a
	// child's secret is replaced last.
	MaxPending int
	// AllowOtherUsers accepts children that run as other users on Unix sockets.
	// Otherwise a connection from any user but this process's own is refused,
	// root included, if the kernel reports the user (see uds.PeerCred).
	AllowOtherUsers bool
	// AllowOtherProcesses accepts a child's hello, and its control connection,
	// from any process that knows the secret. Otherwise, on Unix sockets if the
	// kernel reports the process, it must be the process given to SetPID or a
	// descendant of it, because a wrapper may start the child. A descendant is
	// known by its process group, its session or its parents.
	AllowOtherProcesses bool
	// Logger gets a line at level Warn for refused connections and for each
	// accept that fails; nil logs nothing. The first refusal for a cause has a
	// line, and then one in ten seconds. Its keys are "cause" (one of a dozen),
	// "remote" (the address), "pid" (0 if the kernel does not report it),
	// "reason", and "unlogged", the number of refusals for the cause since its
	// last line, if any.
	Logger *slog.Logger

	versions versionRange // zero means protocolVersion alone; set by tests
}

func (cfg *ListenerConfig) check() error {
	switch {
	case cfg.HelloTimeout < 0:
		return fmt.Errorf("HelloTimeout: %v is negative", cfg.HelloTimeout)
	case cfg.MaxPending < 0:
		return fmt.Errorf("MaxPending: %d is negative", cfg.MaxPending)
	}
	cfg.versions = cfg.versions.orDefault()
	if cfg.HelloTimeout == 0 {
		cfg.HelloTimeout = access.DefaultHelloTimeout
	}
	if cfg.MaxPending == 0 {
		cfg.MaxPending = defaultMaxPending
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Identity = thisProcess(cfg.Identity)
	if err := checkIdentity(cfg.Identity); err != nil {
		return fmt.Errorf("Identity: %w", err)
	}
	return nil
}

// Listener accepts the connections of children. Make one with [Listen]. Its
// methods may be called concurrently.
type Listener struct {
	cfg      ListenerConfig // with its defaults
	ln       net.Listener
	serve    serveFunc
	refusals refusals
	room     chan struct{} // gets a value when a connection is no longer pending
	accepts  chan struct{} // closed when no more connections are accepted

	// ends with Close, for the reason ErrListenerClosed; ends every conversation
	ctx  context.Context
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // the accept loop and the goroutine of each connection

	mu       sync.Mutex // guards what follows; never held over input or output
	closed   bool
	expected map[string]*Expected // by id, until a hello has used the secret
	byPID    map[int]*Expected    // the same, if SetPID was called
	sessions map[string]*Peer     // by id: children that may attach a control connection
	// of *pending: connections without an accepted hello, oldest first
	pending   *list.List
	acceptErr error           // of the last accept
	drained   []chan struct{} // to be closed by the accept loop; see acceptQueued
}

// serveFunc is called for each connection, in a goroutine of its own.
type serveFunc func(*Listener, context.Context, *pending)

// Listen starts to accept children on ln, and takes it over. The caller calls
// Close in the end.
func Listen(ln net.Listener, cfg ListenerConfig) (*Listener, error) {
	return listen(ln, cfg, (*Listener).handle)
}

func listen(ln net.Listener, cfg ListenerConfig, serve serveFunc) (*Listener, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("handshake: ListenerConfig.%w", err)
	}
	l := &Listener{
		cfg:      cfg,
		ln:       ln,
		serve:    serve,
		refusals: refusals{interval: refusalInterval, tallies: make(map[string]*tally)},
		room:     make(chan struct{}, 1),
		accepts:  make(chan struct{}),
		expected: make(map[string]*Expected),
		byPID:    make(map[int]*Expected),
		sessions: make(map[string]*Peer),
		pending:  list.New(),
	}
	l.ctx, l.stop = context.WithCancelCause(context.Background())
	l.wg.Go(l.acceptLoop)
	return l, nil
}

// Addr returns the address at which the Listener listens.
func (l *Listener) Addr() transport.Addr { return transport.AddrOf(l.ln.Addr()) }

// Identity returns how the Listener presents itself to children.
func (l *Listener) Identity() Identity { return l.cfg.Identity }

// Close stops accepting, ends every handshake with [ErrListenerClosed], and
// waits for the Listener's goroutines. Peers that WaitForPeer has returned stay
// open.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("handshake: %w", ErrListenerClosed)
	}
	l.closed = true
	waiting := slices.Collect(maps.Values(l.expected))
	l.mu.Unlock()
	l.stop(ErrListenerClosed)
	err := l.ln.Close()
	for _, x := range waiting {
		x.resolve(nil, &Error{x.Phase(), ErrListenerClosed})
	}
	l.wg.Wait()
	return err
}

// run calls f in a goroutine that Close waits for. It reports false if the
// Listener is closed.
func (l *Listener) run(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Go(f)
	}
	return !l.closed
}

// Serve serves conn as if it had been accepted, and takes it over. Only this module
// can call it: for children whose connections come another way.
func (l *Listener) Serve(_ access.Key, conn net.Conn) {
	if !l.run(func() {
		ctx, p := l.addPending(conn)
		l.serve(l, ctx, p)
	}) {
		conn.Close()
	}
}

// The pause after an accept that failed doubles with each failure in a row.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// acceptLoop accepts connections until Close. When accept fails, for lack of
// descriptors or memory, it tries again after a pause. New connections wait in
// the kernel's queue meanwhile.
func (l *Listener) acceptLoop() {
	defer close(l.accepts)
	pause := minAcceptPause
	var drained []chan struct{}
	for {
		if len(drained) > 0 && !queued(l.ln) {
			for _, c := range drained {
				close(c)
			}
			drained = nil
		}
		conn, err := l.ln.Accept()
		if err != nil && l.ctx.Err() != nil {
			return // Close
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			drained = append(drained, l.resumeAccept()...)
			continue
		}
		l.mu.Lock()
		l.acceptErr = err
		l.mu.Unlock()
		if err == nil {
			pause = minAcceptPause
			ctx, p := l.addPending(conn)
			l.wg.Go(func() { l.serve(l, ctx, p) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return // somebody else closed it: acceptErr stays
		}
		l.cfg.Logger.Warn("handshake: accept failed, trying again", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return
		}
		pause = min(2*pause, maxAcceptPause)
	}
}
