package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/spawnwire/spawnwire/forkspawn/internal/address"
	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/forkspawn/internal/localnet"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/reaper"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// ErrSpawnerClosed is the error of a Spawner that was closed.
var ErrSpawnerClosed = errors.New("spawner closed")

// Spawner starts children and ends them. Make one with [New]. Its methods may be
// called concurrently.
type Spawner struct {
	cfg    Config
	report reporter
	quiet  reporter         // without the Trace
	spares *spares          // of Config.Spares, or nil
	dir    *unixsock.Dir    // the socket's private directory, or nil
	socket *movableListener // in dir; nil without it
	peers  *handshake.Listener
	addr   transport.Addr // for the children to connect to
	thread *osproc.Launcher
	forks  *forkserver    // of MethodForkserver, or nil
	local  *localnet.Net  // of MethodInProcess, or nil
	reaper *reaper.Reaper // of Config.Subreaper, or nil

	ctx    context.Context // ends when Close begins, and ends the boots in progress
	cancel context.CancelFunc
	boots  sync.WaitGroup // calls of Spawn in progress
	reaps  sync.WaitGroup // children that are not reaped yet, with their streams
	// bytes of the captured output of reaped children; see Child.LostOutput
	lostOutput atomic.Int64

	mu       sync.Mutex    // guards what follows; never held over input, output or a wait
	hastened int           // calls of Hasten
	hasten   chan struct{} // closed, and replaced, by Hasten
	closed   bool
	children map[*Child]struct{} // ready and not stopped
	// for inspections: those that run, restarts to come, and the last that ended badly
	processes map[*Child]struct{}
	pauses    []*life
	ended     [8]*Child     // newest first
	done      chan struct{} // closed when Close is done
	closeErr  error
}

// New makes a Spawner. It opens the socket for the children and starts to
// accept. The caller must call [Spawner.Close] in the end.
//
// The error is a [*ConfigError] if a field of cfg is invalid or the start method is
// not available, and a [*ResourceError] if descriptors or a place for the socket
// are lacking. If this process was itself spawned and has called neither Init nor
// Join, the error matches [ErrInitNotCalled], because such a program would start
// itself without end. If it was spawned and has lost its ticket, the error matches
// [ErrTicketLost].
//
// A program that gives up privileges does so before New. Otherwise its children
// cannot reach the socket in the private directory, and Close cannot remove it.
func New(cfg Config) (_ *Spawner, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if ticketUntaken() {
		return nil, fmt.Errorf("forkspawn: %w", ErrInitNotCalled)
	}
	if lacksTicket() {
		return nil, fmt.Errorf("forkspawn: %w", ErrTicketLost)
	}
	s := &Spawner{
		cfg: cfg, report: reporter{log: cfg.Logger}, quiet: reporter{log: cfg.Logger},
		children: make(map[*Child]struct{}), processes: make(map[*Child]struct{}),
		hasten: make(chan struct{}), done: make(chan struct{}),
	}
	if cfg.Trace != nil {
		s.report.trace = *cfg.Trace
	}
	if err := s.open(); err != nil {
		s.removeDir()
		return nil, err
	}
	if osproc.StatusesDiscarded() {
		s.report.statusesDiscarded()
	}
	s.thread = osproc.NewLauncher()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.Method == MethodForkserver && cfg.Start == nil {
		s.forks = newForkserver(s)
	}
	noteSpawner(s)
	if cfg.Spares > 0 {
		s.spares = newSpares(s)
		s.spares.refill() // after the assignment, because the boots of spares use it
	}
	return s, nil
}

// open opens what New can fail to open. After an error only the directory is
// left.
func (s *Spawner) open() error {
	cfg := &s.cfg
	ln, err := s.listen()
	if bad := (*address.FieldError)(nil); errors.As(err, &bad) {
		return badAddress(bad)
	}
	if err != nil {
		return prefixed("listen", explainScarcity(err))
	}
	if s.addr, err = cfg.addresses().Advertised(transport.AddrOf(ln.Addr())); err != nil {
		ln.Close()
		return badAddress(err)
	}
	s.peers, err = handshake.Listen(ln, handshake.ListenerConfig{
		Identity:            handshake.Identity{Name: cfg.Name},
		MaxFrameSize:        cfg.MaxFrameSize,
		Ring:                cfg.Ring,
		HelloTimeout:        cfg.HelloTimeout,
		MaxPending:          cfg.MaxPending,
		AllowOtherUsers:     cfg.AllowOtherUsers,
		AllowOtherProcesses: cfg.AllowOtherProcesses,
		Logger:              cfg.Logger,
	})
	if err != nil {
		ln.Close()
		return prefixed("listen", err)
	}
	if cfg.Subreaper {
		if s.reaper, err = reaper.New(s.peers.Identity().ID); err != nil {
			s.peers.Close()
			return fmt.Errorf("forkspawn: %w", explainScarcity(err))
		}
	}
	return nil
}

// Addr returns the address to which children connect: Config.Advertise, or the
// address of the socket. With TLS it contains the hash of the certificate.
func (s *Spawner) Addr() transport.Addr { return s.addr }

// Close stops all children at the same time, each as [Child.Stop] does, and
// closes the Spawner. Spawns in progress and later ones fail with [ErrSpawnerClosed].
//
// Close takes at most Config.StopGrace and TermGrace together, and a moment. If
// SIGKILL does not end a child, Close returns an error after half a minute more,
// and the child is reaped when it ends. If a writer of a captured stream has not got
// all output, Close returns a [*LostOutputError]. A second call waits for the first and
// returns its error.
func (s *Spawner) Close() error { return s.Shutdown(context.Background()) }

// Shutdown is like Close with a context. When ctx ends, it kills all remaining
// children at once, also those of a Close or Shutdown in progress.
func (s *Spawner) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.awaitClose(ctx)
	}
	s.closed = true
	s.mu.Unlock()

	s.cancel() // first, so that the boots in progress end
	s.forks.close()
	early := s.stopAll(ctx)
	s.boots.Wait()
	late := s.stopAll(ctx) // those that became ready meanwhile
	errs := append(<-early, <-late...)
	s.spares.wait()
	s.forks.wait()
	if !s.awaitReaps(errors.Is(errors.Join(errs...), errUnkillable)) {
		errs = append(errs, prefixed("close", fmt.Errorf("a child is %w", errUnkillable)))
	}
	errs = append(errs, s.peers.Close(), s.removeDir())
	if s.thread.Close() {
		errs = append(errs, prefixed("close", errStuckStart))
	}
	s.reaper.Close()
	if lost := s.lostOutput.Load(); lost > 0 {
		errs = append(errs, prefixed("close", &LostOutputError{lost}))
	}
	forgetSpawner(s)
	s.closeErr = errors.Join(errs...)
	close(s.done)
	return s.closeErr
}

var errStuckStart = errors.New("a start waits for a file system that does not answer; " +
	"its process is killed when the kernel lets go of it")

// awaitReaps waits until all children are reaped, and reports whether they are.
// By now all have ended or got SIGKILL. unkillable says that SIGKILL did not end one.
func (s *Spawner) awaitReaps(unkillable bool) bool {
	reaped := make(chan struct{})
	go func() {
		s.reaps.Wait()
		close(reaped)
	}()
	bound := killBound
	if !unkillable {
		bound += 2 * capture.AllTimeout
	}
	return wait.For(context.Background(), reaped, bound)
}

// awaitClose waits for the first Shutdown. The stop ladder bounds the wait.
func (s *Spawner) awaitClose(ctx context.Context) error {
	select {
	case <-s.done:
	case <-ctx.Done():
		for _, c := range append(s.Children(), s.spares.dismissed()...) {
			c.kill()
		}
		<-s.done
	}
	return s.closeErr
}

// stopAll begins to stop all children and spares. The channel that it returns
// gets the errors when all are stopped.
func (s *Spawner) stopAll(ctx context.Context) <-chan []error {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	for _, c := range append(s.Children(), s.spares.dismiss()...) {
		wg.Go(func() {
			defer context.AfterFunc(ctx, c.kill)() // because a concurrent Stop has another context
			if _, err := c.Stop(ctx); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	out := make(chan []error, 1)
	go func() {
		wg.Wait()
		out <- errs
	}()
	return out
}

// Children returns the children that are ready and not stopped, in no particular
// order.
func (s *Spawner) Children() []*Child {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Child, 0, len(s.children))
	for c := range s.children {
		list = append(list, c)
	}
	return list
}

// begin counts a boot and returns true, unless the Spawner is closed.
func (s *Spawner) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.boots.Add(1)
	return true
}

func (s *Spawner) add(c *Child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.children[c] = struct{}{}
}

func (s *Spawner) remove(c *Child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.children, c)
}
