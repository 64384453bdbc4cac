package forkspawn

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/address"
	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// ErrNotSpawned is the error of [Join] in a process that was not spawned, or has
// joined already.
var ErrNotSpawned = errors.New("not a spawned process: " + handshake.TicketEnv + " is not set")

// ErrParentGone is the cause of a child's context when its parent has died or has
// closed the connection without a goodbye.
var ErrParentGone = errors.New("the parent is gone")

// CancelError is the cause of a child's context when its parent has asked it to
// stop. It matches [context.Canceled].
type CancelError struct {
	Reason string
	Grace  time.Duration // until the parent uses force; 0 is unknown
}

func (e *CancelError) Error() string { return "forkspawn: asked to stop: " + e.Reason }

// Is reports whether target is context.Canceled.
func (e *CancelError) Is(target error) bool { return target == context.Canceled }

// JoinConfig has the settings of [Join]. The zero JoinConfig is ready to use.
type JoinConfig struct {
	// ReadyLater means that the child is ready when it calls [Parent.Ready], and
	// not when Join returns.
	ReadyLater bool
	// MaxFrameSize is the largest frame of the channel, in bytes; 0 is
	// transport.DefaultMaxFrameSize.
	MaxFrameSize int
	// OnParentGone is called when the parent has died and the context has
	// ended, once and in a new goroutine. If it is nil, the process exits with
	// status 125 after a quarter of a second.
	//
	// With OnParentGone, a write to a stdout or stderr that nobody reads any more
	// is an error and no SIGPIPE. After the parent's death the null device takes
	// the place of such a stream.
	OnParentGone func()
}

// Parent is a child's connection to its parent. Its methods may be called
// concurrently.
type Parent struct {
	id      string // of this child
	spec    *spawnspec.Spec
	cfg     JoinConfig
	joined  *handshake.Joined
	dial    func(context.Context) (net.Conn, error)
	addr    transport.Addr           // of the parent; zero in the parent's own process
	control func() (net.Conn, error) // see joining
	files   map[string]*os.File      // of Command.Files

	// holds one value until the child has said that it is ready; Ready and Close
	// take it
	unready chan struct{}

	releasable bool // by Command.Releasable, or taken over
	// holds one value during a Next, which owns waiting
	nexting  chan struct{}
	requests net.Conn               // nil if the child is not releasable
	waiting  *nextParent            // from the release until the next parent is there
	next     atomic.Pointer[Parent] // the parent after this one

	accepting chan struct{} // holds one value during an Accept, which owns conns
	conns     net.Conn      // nil before the first Accept
	sockets   atomic.Int64  // counts this process's listening sockets; see listenBeside

	ctx      context.Context
	cancel   context.CancelCauseFunc
	orphaned sync.Once // the reaction to the parent's death
	// ends with Close only, because a child that stops must still see its parent die
	open  context.Context
	close context.CancelFunc
	// bounds the dial of the control connection; a failing child waits for it in Close
	attaching  context.Context
	stopAttach context.CancelFunc
	watch      sync.WaitGroup // the goroutine on the control connection

	mu          sync.Mutex    // guards what follows; never held over input, output or a wait
	askedToStop chan struct{} // closed, and replaced, when what follows changes
	askedAt     time.Time     // when the parent asked this process to stop
	grace       time.Duration // the parent's grace from then on; 0 is unknown
	closed      bool          // Close was called
	status      int           // with these arguments
	reason      string
}

// parentKey is the key of the Parent in its Context.
type parentKey struct{}

// ownParent is the parent that this process has joined.
var ownParent atomic.Pointer[Parent]

// parentOf returns the parent of the process or entry that does its work under
// ctx, or nil. An entry in this process has another parent than the process.
func parentOf(ctx context.Context) *Parent { return parentIn(ctx, ownParent.Load()) }

// parentIn returns the parent whose Context is an ancestor of ctx, or otherwise.
func parentIn(ctx context.Context, otherwise *Parent) *Parent {
	if p, ok := ctx.Value(parentKey{}).(*Parent); ok {
		return p
	}
	return otherwise
}

// depth returns the depth of p's process in the tree. A nil p is the root.
func (p *Parent) depth() int {
	if p == nil {
		return 0
	}
	return p.spec.Depth
}

// Join makes this process a child: it connects to its parent, authenticates, and
// receives its spec. It is for programs of their own. Children of the spawning
// program use [Register] and [Init] instead. If this process was not spawned, the
// error matches [ErrNotSpawned].
//
// In a spare ([Config.Spares]) Join waits for the spec, maybe for hours. If the
// parent does not need the spare, the error is a [*CancelError], and the program
// should exit.
//
// ctx bounds the joining only. [Parent.Context] ends when the child should.
func Join(ctx context.Context, cfg JoinConfig) (*Parent, error) {
	main := monotime.Now()
	ticket, ok, err := takeTicket()
	switch {
	case !ok:
		return nil, prefixed("join", ErrNotSpawned)
	case err != nil:
		return nil, prefixed("join", err)
	}
	if cfg.OnParentGone != nil {
		capture.SurviveReaders()
	}
	p, err := join(ctx, ticket, joining{
		cfg: cfg, init: monotime.Init, main: main, dial: dialer(ticket.Addr), files: takeFiles(),
		check: func(p *Parent) error {
			useLogLevel(p.spec.LogLevel)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	ownParent.Store(p)
	return p, nil
}

// dialer returns a function to dial the address of a ticket.
//
// It allows plain TCP to any address, because the parent has decided that: a
// parent without Config.AllowUnencryptedTCP makes tickets for the loopback only.
// A process with the power to give a child another ticket can also start other
// programs.
func dialer(addr transport.Addr) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		network, err := address.Network(addr, true)
		if err != nil {
			return nil, err
		}
		conn, err := network.Dial(ctx, addr)
		return conn, explainScarcity(err)
	}
}

// joining is how a child joins.
type joining struct {
	cfg   JoinConfig
	files map[string]*os.File // of Command.Files
	// requests is the connection for Next in a process that was taken over
	requests net.Conn
	init     int64 // when the process began to run Go code; see package monotime
	main     int64 // when Init or Join was called
	dial     func(context.Context) (net.Conn, error)
	// control returns the child's end of a control connection that exists from
	// the start. If it is nil, the child dials one after it is ready.
	control func() (net.Conn, error)
	// joined, if not nil, is called after the ready message was sent, or before the
	// program prepares itself.
	joined func()
	// check, if not nil, is called with the spec. The parent gets its error. It may
	// set cfg.ReadyLater.
	check func(*Parent) error
}

// join connects, does the handshake and answers the parent. It needs no bound of
// its own. The parent kills a child that is not ready in time, and the parent's
// death ends the connection.
func join(ctx context.Context, t handshake.Ticket, how joining) (*Parent, error) {
	times := access.Timings{Init: how.init, Main: how.main}
	conn, err := how.dial(ctx)
	if err != nil {
		return nil, prefixed("join", err)
	}
	times.Connected = monotime.Now()
	p := &Parent{
		id: t.ID, dial: how.dial, control: how.control, addr: t.Addr, cfg: how.cfg,
		files: how.files, unready: make(chan struct{}, 1), accepting: make(chan struct{}, 1),
		requests: how.requests, nexting: make(chan struct{}, 1),
		askedToStop: make(chan struct{}),
	}
	p.open, p.close = context.WithCancel(context.Background())
	p.attaching, p.stopAttach = context.WithCancel(context.Background())
	p.ctx, p.cancel = context.WithCancelCause(
		context.WithValue(context.Background(), parentKey{}, p))
	if err := p.takeRequests(); err != nil {
		conn.Close()
		return nil, prefixed("join", err)
	}
	if how.requests == nil { // else it has had a spec before
		rehearse()
	}
	p.joined, err = handshake.Join(ctx, conn, t, handshake.JoinConfig{
		MaxFrameSize: p.cfg.MaxFrameSize, OnCancel: p.asked, Control: how.control == nil,
		Internal: access.JoinOptions{Timings: &times, Inspect: true},
	})
	switch {
	case errors.Is(err, access.ErrDismissed):
		return nil, context.Cause(p.ctx)
	case err != nil:
		return nil, prefixed("join", err)
	}
	times.Accepted = monotime.Now()
	if err := p.accept(ctx, how.check); err != nil {
		return nil, err
	}
	p.unready <- struct{}{}
	if p.cfg.ReadyLater {
		p.watch.Go(p.awaitReady)
	} else if err := p.sayReady(ctx, nil); err != nil {
		p.joined.Channel.Abort()
		return nil, prefixed("join", err)
	}
	if how.joined != nil {
		how.joined()
	}
	return p, nil
}

// accept decodes and checks the spec. If it cannot be accepted, the parent gets
// the reason.
func (p *Parent) accept(ctx context.Context, check func(*Parent) error) (err error) {
	refuse := func(phase handshake.Phase, reason error) error {
		p.joined.Fail(ctx, phase, reason)
		return prefixed("join: "+string(phase), reason)
	}
	if p.spec, err = spawnspec.Unmarshal(p.joined.Spec); err != nil {
		return refuse(handshake.PhaseSpec, err)
	}
	p.joined.Channel.Frames(access.Key{}).SetDeadAfter(p.spec.DeadAfter)
	if !p.spec.Deadline.IsZero() {
		base := p.ctx
		var stop context.CancelFunc
		p.ctx, stop = context.WithDeadline(base, p.spec.Deadline)
		context.AfterFunc(base, stop)
	}
	if check != nil {
		if err := check(p); err != nil {
			return refuse(handshake.PhaseSpec, err)
		}
	}
	return nil
}

// exampleSpec is a spec with its required fields.
const exampleSpec = "\xa5av\x01dnameaxedepth\x01eentryaxfmethoddexec"

// rehearse decodes the example spec. The first decoding takes memory of new kinds from
// the Go runtime, and writes to pages that a forked child must copy. Here it is over
// before the parent sends the spec of a spare.
func rehearse() { spawnspec.Unmarshal([]byte(exampleSpec)) }

// Context returns the child's context. It ends when the parent asks the child to
// stop, when the parent is gone, when the spec's deadline passes, or after Close.
// It ends within moments, also while the child does not receive, because the
// request comes over a second connection.
func (p *Parent) Context() context.Context { return p.ctx }

// Identity returns the identity of the parent.
func (p *Parent) Identity() handshake.Identity { return p.joined.Parent }

// Spec returns the spec of this child. The caller must not change it.
func (p *Parent) Spec() *spawnspec.Spec { return p.spec }

// Channel returns the channel to the parent.
func (p *Parent) Channel() *transport.Channel { return p.joined.Channel }

// Send sends v as one message; see [transport.Channel.Send].
func (p *Parent) Send(ctx context.Context, v any) error {
	return p.explain(p.joined.Channel.Send(ctx, v))
}

// Recv receives one message into v; see [transport.Channel.Recv]. If the parent
// has asked the child to stop and then closed, the error is the [*CancelError].
func (p *Parent) Recv(ctx context.Context, v any) error {
	return p.explain(p.joined.Channel.Recv(ctx, v))
}

// SendBytes sends b as one raw message; see [transport.Channel.SendBytes].
func (p *Parent) SendBytes(ctx context.Context, b []byte) error {
	return p.explain(p.joined.Channel.SendBytes(ctx, b))
}

// RecvBytes receives one raw message into buf; see
// [transport.Channel.RecvBytes].
func (p *Parent) RecvBytes(ctx context.Context, buf []byte) (int, error) {
	n, err := p.joined.Channel.RecvBytes(ctx, buf)
	return n, p.explain(err)
}

// explain ends the context if err is the end of the channel. If the context has
// ended before, its cause replaces err.
func (p *Parent) explain(err error) error {
	var bye *transport.GoodbyeError
	switch {
	case err != nil && errors.Is(context.Cause(p.ctx), ErrReleased):
		return ErrReleased
	case errors.As(err, &bye):
		p.cancel(&CancelError{Reason: "the parent closed the channel"})
		return err
	case errors.Is(err, transport.ErrPeerGone):
		p.parentGone()
	default:
		return err
	}
	if cause := context.Cause(p.ctx); cause != nil {
		return cause
	}
	return err
}

// Close sends a goodbye with the coming exit status and closes the connections.
// Context ends. Close takes at most a second. Before [Parent.Ready] it reports the
// reason as the failure of the start.
func (p *Parent) Close(status int, reason string) error {
	p.mu.Lock()
	p.closed, p.status, p.reason = true, status, reason
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), farewellBound)
	defer cancel()
	if status == 0 {
		p.stopAttach() // success needs no goodbye there
	} else {
		defer context.AfterFunc(ctx, p.stopAttach)()
	}
	p.close()
	var err error
	if p.isUnready() {
		err = p.joined.Fail(ctx, handshake.PhaseReady,
			errors.New(cmp.Or(reason, "it ended before it was ready")))
	} else {
		err = p.joined.Channel.CloseWith(ctx, status, reason)
	}
	p.cancel(transport.ErrChannelClosed)
	p.watch.Wait()
	p.stopAttach()
	return err
}

// farewellBound bounds Close, because the parent may not read.
const farewellBound = time.Second
