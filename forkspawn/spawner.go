package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// Spawner starts children and ends them. Make one with [New]; Close ends all its children with it. Its
// methods may be called concurrently.
type Spawner struct {
	cfg    Config
	tell   teller
	quiet  teller   // for what is told to the logger alone
	spares *spares  // of Config.Spares, else nil
	dir    *uds.Dir // of the socket; nil when the caller chose the address, or it is in the parent's
	peers  *handshake.Listener
	addr   transport.Addr // where children connect
	thread *launcher
	forks  *forkserver // of MethodForkserver, else nil
	local  *localNet   // of MethodInProcess, else nil
	reaper *subreaper  // of Config.Subreaper, else nil

	ctx    context.Context // ends when Close begins; ends the boots under way
	cancel context.CancelFunc
	boots  sync.WaitGroup // calls of Spawn under way
	reaps  sync.WaitGroup // children that are not reaped yet, with their streams

	mu       sync.Mutex    // guards what follows; never held over input, output or a wait
	hastened int           // calls of Hasten
	hasten   chan struct{} // closed, and replaced, by Hasten
	closed   bool
	children map[*Child]struct{} // that are ready and not closed yet
	done     chan struct{}       // closed when Close is done
	closeErr error
}

// New makes a Spawner: it opens the socket on which children connect and starts to accept. A field of cfg
// that is wrong gives a [*ConfigError], a start method that cannot be had a [*MethodError], a want of
// descriptors or of a place for the socket a [*ResourceError].
//
// In a process that was itself spawned and has called neither Init nor Join the error is
// [ErrInitNotCalled]: such a program would otherwise start itself without end.
func New(cfg Config) (*Spawner, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if ticketUntaken() {
		return nil, ErrInitNotCalled
	}
	s := &Spawner{
		cfg: cfg, tell: teller{log: cfg.Logger}, quiet: teller{log: cfg.Logger},
		children: make(map[*Child]struct{}), hasten: make(chan struct{}), done: make(chan struct{}),
	}
	if cfg.Trace != nil {
		s.tell.trace = *cfg.Trace
	}
	ln, err := s.listen()
	if config := (*ConfigError)(nil); errors.As(err, &config) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("forkspawn: listen: %w", explainScarcity(err))
	}
	if s.addr, err = cfg.advertised(transport.AddrOf(ln.Addr())); err != nil {
		ln.Close()
		s.removeDir()
		return nil, err
	}
	s.peers, err = handshake.Listen(ln, handshake.ListenerConfig{
		Identity:            handshake.Identity{Name: cfg.Name},
		Limit:               cfg.Limit,
		HelloTimeout:        cfg.HelloTimeout,
		MaxPending:          cfg.MaxPending,
		AllowOtherUsers:     cfg.AllowOtherUsers,
		AllowOtherProcesses: cfg.AllowOtherProcesses,
		Logger:              cfg.Logger,
	})
	if err != nil {
		ln.Close()
		s.removeDir()
		return nil, fmt.Errorf("forkspawn: listen: %w", err)
	}
	if cfg.Subreaper {
		if s.reaper, err = newSubreaper(s.peers.Identity().ID); err != nil {
			s.peers.Close()
			s.removeDir()
			return nil, fmt.Errorf("forkspawn: %w", explainScarcity(err))
		}
	}
	s.thread = newLauncher()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.Method == MethodForkserver && cfg.Starter == nil {
		s.forks = newForkserver(s)
	}
	if cfg.Spares > 0 {
		s.spares = newSpares(s)
		s.spares.refill() // which uses s.spares
	}
	return s, nil
}

func (s *Spawner) listen() (net.Listener, error) {
	if s.cfg.Method == MethodInProcess && s.cfg.Starter == nil {
		s.local = newLocalNet()
		return s.local, nil
	}
	if !s.cfg.Listen.IsZero() {
		return s.cfg.listenAt(context.Background())
	}
	if ln := listenBeside(ownParent.Load()); ln != nil {
		return ln, nil
	}
	dir, err := uds.NewDir()
	if err != nil {
		return nil, noPlace(err)
	}
	ln, err := uds.Listen(context.Background(), dir.Addr("s"))
	if err != nil {
		dir.Remove()
		return nil, noPlace(err)
	}
	s.dir = dir
	return ln, nil
}

// The sockets of a tree of processes are in one private directory, its root's. A process that was spawned makes
// its sockets in the directory that has its parent's, under a name that the parent knows: so whoever is killed
// leaves nothing that its parent cannot remove. Where that cannot be, it makes a directory of its own.

// besideBound bounds the wait for a directory that somebody else has locked.
const besideBound = time.Second

// listenBeside listens beside the parent's socket, or returns nil.
func listenBeside(p *Parent) net.Listener {
	if p == nil || p.addr.IsZero() {
		return nil
	}
	addr, ok := uds.Beside(p.addr, fmt.Sprintf("%s%d", socketPrefix(p.id), p.sockets.Add(1)))
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), besideBound)
	defer cancel()
	ln, err := uds.Listen(ctx, addr)
	if err != nil {
		return nil
	}
	return ln
}

// socketPrefix is how the names of the sockets begin that a child with the id makes: 11 bytes, of 16 that are
// never too long.
func socketPrefix(id string) string { return id[:min(len(id), 10)] + "-" }

func (s *Spawner) removeDir() error {
	if s.dir == nil {
		return nil
	}
	return s.dir.Remove()
}

// Addr is where children connect: Config.Advertise, or where the Spawner listens; over TLS with the pin of its
// certificate.
func (s *Spawner) Addr() transport.Addr { return s.addr }

// Identity is who this process is to its children.
func (s *Spawner) Identity() handshake.Identity { return s.peers.Identity() }

// Close ends all children, side by side, with the stop ladder of Child.Stop, and gives back all that
// the Spawner holds. Calls of Spawn under way fail with ErrClosed, and so do later ones. It takes at most
// Config.StopGrace and TermGrace together, and a moment; a child that no signal ends is an error after half a minute more,
// and is reaped when it ends. A second call waits for the first and
// returns its error.
func (s *Spawner) Close() error { return s.Shutdown(context.Background()) }

// Shutdown is Close with a context: when that ends, children that still live are killed at once. So it
// also hastens a Close, or another Shutdown, that is under way.
func (s *Spawner) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.awaitClose(ctx)
	}
	s.closed = true
	s.mu.Unlock()

	s.cancel() // first, so that nobody waits for somebody who has not been told
	s.forks.close()
	early := s.stopAll(ctx)
	s.boots.Wait()
	late := s.stopAll(ctx) // those that became ready while we began
	errs := append(<-early, <-late...)
	s.spares.wait()
	s.forks.wait()
	if !s.awaitReaps() {
		errs = append(errs, fmt.Errorf("forkspawn: close: a child is %w", errUnkillable))
	}
	errs = append(errs, s.peers.Close(), s.removeDir())
	s.thread.close()
	s.reaper.close()
	s.closeErr = errors.Join(errs...)
	close(s.done)
	return s.closeErr
}

// awaitReaps waits until all children are reaped, and reports whether they are. All have been killed by now if they had to be,
// and only what no signal ends can take long.
func (s *Spawner) awaitReaps() bool {
	reaped := make(chan struct{})
	go func() {
		s.reaps.Wait()
		close(reaped)
	}()
	return awaitClosed(context.Background(), reaped, killBound+3*sinkTimeout)
}

// awaitClose waits for the Shutdown that came first, which the ladder bounds.
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

// stopAll begins to stop all children and spares and returns where the errors come when they are gone.
func (s *Spawner) stopAll(ctx context.Context) <-chan []error {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	for _, c := range append(s.Children(), s.spares.dismiss()...) {
		wg.Go(func() {
			defer context.AfterFunc(ctx, c.kill)() // somebody else's Stop, which may be under way, does not heed ctx
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

// Children returns the children that are ready and have not been stopped, in no order.
func (s *Spawner) Children() []*Child {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Child, 0, len(s.children))
	for c := range s.children {
		list = append(list, c)
	}
	return list
}

// begin counts a boot, unless the Spawner is closed.
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
