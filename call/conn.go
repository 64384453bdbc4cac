package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/inspect"
	"github.com/spawnwire/spawnwire/internal/progname"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// Owner has the channel for a [Conn]. A *forkspawn.Child and a *forkspawn.Parent are
// Owners. For the Channel of a *handshake.Peer there is [Over].
//
// If the Owner also has the methods Exited() <-chan struct{} and Err() error, they
// report the end of the other process. Then the calls that its end interrupts fail
// with the error of Err, which is a *forkspawn.ExitError for a Child.
type Owner interface {
	Channel() *transport.Channel
}

// Over returns an Owner of a channel.
func Over(ch *transport.Channel) Owner { return channelOwner{ch} }

type channelOwner struct{ ch *transport.Channel }

func (o channelOwner) Channel() *transport.Channel { return o.ch }

// Config has the settings of a [Conn]. The zero value is ready to use.
type Config struct {
	// MaxCalls is how many calls may be open at a time, in each direction. Further
	// calls wait until one ends. 0 means 128. The peer's Config limits its own
	// direction, too. Calls that handlers make count. If callbacks of callbacks use
	// up all places, they wait for each other until their contexts end.
	MaxCalls int

	// Memory is the most that the Conn keeps of received messages, in bytes, until
	// the program takes them. A sender waits for room. Unread messages of a stream
	// that has ended do not count. 0 means 64 MiB.
	Memory int

	// MaxMessage is the largest message that the Conn receives, in bytes. 0 means
	// 16 MiB. It is at most half of Memory.
	MaxMessage int

	// CancelGrace is how long a cancelled call waits for its result. 0 means two
	// seconds. Then the call fails with ErrStillRunning.
	CancelGrace time.Duration

	// OnPanic is called with each panic of a handler, after the caller was sent the
	// error. If it is nil, the panic goes on and ends the process.
	OnPanic func(method string, value any, stack []byte)

	// Trace is called with the events of calls. Nil means none.
	Trace *Trace
}

func (cfg *Config) setDefaults() {
	if cfg.MaxCalls <= 0 {
		cfg.MaxCalls = 128
	}
	if cfg.Memory <= 0 {
		cfg.Memory = 64 << 20
	}
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = 16 << 20
	}
	cfg.MaxMessage = min(cfg.MaxMessage, cfg.Memory/2)
	if cfg.CancelGrace <= 0 {
		cfg.CancelGrace = 2 * time.Second
	}
}

// minFrame is the least limit for frames, because no frame of a call is larger.
const minFrame = 64 << 10

// maxWindow is the largest window of a call, in bytes.
const maxWindow = 128 << 10

// Conn makes and serves calls over a channel. [New] makes one, and Close must end
// it. All methods may be called concurrently.
//
// A Conn receives on the channel, so nothing else may. Ordinary messages that come
// between the calls are received with [Conn.Recv] and [Conn.RecvBytes]. Sends on the
// channel work as usual. A Conn does not close the channel. Its limit for frames must
// be at least 64 KiB.
type Conn struct {
	// Set by New.
	cfg    Config
	owner  Owner
	mux    *Mux
	base   context.Context // of all handlers' contexts
	ch     *transport.Channel
	frames frame.Channel
	window uint64          // of each direction of a call, for the peer
	self   string          // this process, for CanceledBy
	reads  context.Context // ends the reads of workers
	stop   context.CancelFunc
	dead   chan struct{}  // closed after err is set
	work   sync.WaitGroup // all goroutines of the Conn

	// mu guards everything below, and the state of all calls. It is not held over
	// input, output, a handler, a wait, or the allocation of a large message.
	mu sync.Mutex

	state connState
	err   error // of all calls, when state is stateDead

	peer     *hello // nil until it has come
	draining bool   // this side takes no new calls
	goneAway bool   // the peer takes no new calls

	ours       map[uint64]*outgoing
	lastOurs   uint64
	theirs     map[uint64]*incoming
	lastTheirs uint64
	slots      waiters // calls that wait for the hello or for a slot
	idleWait   waiters // Drain waits for the end of all calls

	reading  reading
	writing  writing
	pool     pool
	messages messages
	endings  []*traced              // for report
	seen     map[seenCall]time.Time // by the last look; see looks
}

type connState uint8

const (
	stateOpen   connState = iota
	stateEnding           // nothing is read or written any more, and the cause is looked for
	stateDead             // err is set
)

// New makes a Conn over the channel of owner, with the default settings. mux has the
// methods that the peer may call. It may be nil.
func New(owner Owner, mux *Mux) *Conn { return Config{}.New(owner, mux) }

// New is like the function New, with settings.
func (cfg Config) New(owner Owner, mux *Mux) *Conn {
	return cfg.open(context.Background(), owner, mux)
}

func (cfg Config) open(base context.Context, owner Owner, mux *Mux) *Conn {
	cfg.setDefaults()
	if mux == nil {
		mux = NewMux()
	}
	ch := owner.Channel()
	c := &Conn{
		cfg: cfg, owner: owner, mux: mux, ch: ch, frames: ch.Frames(access.Key{}),
		self: progname.Name() + "[" + strconv.Itoa(os.Getpid()) + "]",
		dead: make(chan struct{}),
		ours: make(map[uint64]*outgoing), theirs: make(map[uint64]*incoming),
	}
	c.base = context.WithValue(base, connKey{}, c)
	c.reads, c.stop = context.WithCancel(context.Background())
	c.window = uint64(max(minWindow, min(maxWindow, cfg.Memory/4/cfg.MaxCalls)))
	c.pool.free = cfg.Memory / 2
	limits := hello{uint64(cfg.MaxCalls), c.window, uint64(cfg.MaxMessage)}
	inspect.AddCalls((*looks)(c))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing.out = appendFrame(nil, head{op: opHello}, limits.encode())
	c.reading.watch = time.AfterFunc(time.Hour, c.tick)
	c.reading.watch.Stop()
	if n := ch.MaxFrameSize(); n < minFrame {
		c.failLocked(fmt.Errorf("a MaxFrameSize of %d bytes; calls need %d", n, minFrame))
		return c
	}
	c.setRole(roleReading)
	c.startWorker(nil)
	return c
}

// Serve serves the methods of mux over the channel of owner until the peer closes
// the channel, and then returns nil. If ctx ends, Serve cancels the handlers, waits for
// them, sends their results, and returns the error of ctx. It is for children:
//
//	func worker(ctx context.Context, parent *forkspawn.Parent) error {
//		return call.Serve(ctx, parent, mux)
//	}
//
// The contexts of handlers are derived from ctx. [ConnOf] returns the Conn, for calls
// to the peer.
func Serve(ctx context.Context, owner Owner, mux *Mux) error {
	return Config{}.Serve(ctx, owner, mux)
}

// Serve is like the function Serve, with settings.
func (cfg Config) Serve(ctx context.Context, owner Owner, mux *Mux) error {
	c := cfg.open(ctx, owner, mux)
	defer c.Close()
	select {
	case <-ctx.Done():
		ending, cancel := context.WithTimeout(context.Background(), c.cfg.CancelGrace/2)
		defer cancel()
		c.Drain(ending) // so that the callers get the handlers' errors
		return wait.Cause(ctx)
	case <-c.dead:
	}
	if errors.As(c.err, new(*transport.GoodbyeError)) {
		return nil
	}
	return fmt.Errorf("call: serve: %w", c.err)
}

type connKey struct{}

// ConnOf returns the Conn of a handler's context, or nil. The handler can make calls
// to its caller with it.
func ConnOf(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Done returns a channel that is closed when the Conn has ended.
func (c *Conn) Done() <-chan struct{} { return c.dead }

// Err returns nil until the Conn has ended. Then it returns the reason: ErrClosed,
// the error of the channel, or that of the Owner.
func (c *Conn) Err() error {
	if !wait.Closed(c.dead) {
		return nil
	}
	return c.err
}

// Close ends the Conn. All calls fail with [ErrClosed], and the contexts of handlers
// end. Close waits until the handlers have returned, for Config.CancelGrace at most.
// It returns an error if one has not. It does not close the channel, unless the peer
// does not read what is being sent, for a second.
//
// A handler must not call Close.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.failLocked(ErrClosed)
	c.mu.Unlock()
	<-c.dead
	c.report()
	done := make(chan struct{})
	go func() {
		c.work.Wait()
		close(done)
	}()
	if !wait.For(context.Background(), done, min(closeBound, c.cfg.CancelGrace)) {
		c.abortWrite()
	}
	if !wait.For(context.Background(), done, c.cfg.CancelGrace) {
		return errors.New("call: close: a handler has not returned")
	}
	return nil
}

// closeBound is how long Close waits for a peer that does not read. A peer that calls
// Close at the same time does not read either.
const closeBound = time.Second

// abortWrite ends a write that is under way, and the channel with it.
func (c *Conn) abortWrite() {
	c.mu.Lock()
	writing := c.writing.busy
	c.mu.Unlock()
	if writing {
		c.ch.Abort()
	}
}

// Drain ends the Conn in order. Both sides begin no more calls. Drain waits until
// those that run have ended, and then closes the Conn. If ctx ends before, Drain
// closes the Conn and returns the error of ctx. New calls fail with [ErrDraining].
func (c *Conn) Drain(ctx context.Context) error {
	c.mu.Lock()
	if !c.draining && c.state == stateOpen {
		c.draining = true
		c.writing.out = appendFrame(c.writing.out, head{op: opGoAway})
		c.slots.signalAll(c)
	}
	var w waiter
	var err error
	for len(c.ours)+len(c.theirs) > 0 && c.state != stateDead && err == nil {
		c.idleWait.add(&w)
		err = c.waitLocked(ctx, &w)
		c.idleWait.remove(&w)
	}
	if err == nil {
		err = c.waitWritten(ctx)
	}
	c.mu.Unlock()
	closing := c.Close()
	if err != nil {
		return err
	}
	return closing
}

// failLocked ends the connection because of err, unless it has ended.
func (c *Conn) failLocked(err error) {
	if c.state != stateOpen {
		return
	}
	c.state = stateEnding
	c.stop()
	c.reading.end(c)
	if errors.Is(err, ErrClosed) {
		c.die(err)
		return
	}
	for _, x := range c.theirs {
		x.ctx.end(err)
	}
	c.work.Go(func() {
		if errors.Is(err, ErrProtocol) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c.ch.CloseWith(ctx, 1, err.Error())
		}
		err := c.explain(err)
		defer c.report()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.die(err)
	})
}

// die sets the error of all calls and wakes them. The caller has locked mu.
func (c *Conn) die(err error) {
	c.state, c.err = stateDead, err
	inspect.RemoveCalls((*looks)(c))
	close(c.dead)
	for _, x := range c.ours {
		x.endTrace(localError(x.method, CodeConnection, err))
		x.signalAll()
	}
	for _, x := range c.theirs {
		x.ctx.end(err)
		x.signalAll()
	}
	c.slots.signalAll(c)
	c.idleWait.signalAll(c)
	c.messages.wait.signalAll(c)
	c.writing.done.signalAll(c)
}

// statusBound is how long explain waits for the end of the other process after the
// end of the channel. The kernel closes the sockets of a process a moment before
// the process can be waited for.
const statusBound = 2 * time.Second

// explain returns the error of the end of the other process, if its end is the
// reason for err, the end of the channel.
func (c *Conn) explain(err error) error {
	process, ok := c.owner.(interface {
		Exited() <-chan struct{}
		Err() error
	})
	ended := errors.Is(err, transport.ErrPeerGone) || errors.Is(err, io.EOF) ||
		errors.Is(err, transport.ErrChannelClosed)
	if !ok || !ended || !wait.For(context.Background(), process.Exited(), statusBound) {
		return err
	}
	if why := process.Err(); why != nil {
		return wait.Both(why, err)
	}
	return err
}
