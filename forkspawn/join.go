package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// ErrNotSpawned is the error of Join in a process that nobody spawned, or that has joined already.
var ErrNotSpawned = errors.New("forkspawn: not a spawned process: " + handshake.TicketEnv + " is not set")

// ErrParentGone is the cause of a child's context when its parent has died or cut the connection.
var ErrParentGone = errors.New("forkspawn: the parent is gone")

// CancelError is the cause of a child's context when its parent has asked it to stop. It matches
// context.Canceled.
type CancelError struct {
	Reason string
	Grace  time.Duration // until the parent uses force; 0 is unknown
}

func (e *CancelError) Error() string { return "forkspawn: asked to stop: " + e.Reason }

// Is makes the error match context.Canceled.
func (e *CancelError) Is(target error) bool { return target == context.Canceled }

// OrphanGrace is how long a child whose parent is gone may take to end by itself before it is ended
// with ExitOrphan. (On Linux the kernel has killed it before, unless Config.NoParentDeathSignal.)
const OrphanGrace = 250 * time.Millisecond

// JoinConfig has the settings of JoinWith. Its zero value is ready to use.
type JoinConfig struct {
	// Prepare is called with the spec before the parent is told that the child is ready: for what can
	// fail and the parent should know of, such as opening a port. Its error becomes the cause of the
	// parent's BootError, in its own words, in phase ready.
	Prepare func(*spawnspec.Spec) error
	// Limit is the largest frame of the channel, in bytes; 0 is transport.DefaultLimit.
	Limit int
	// OnParentGone is called, once and in a goroutine of its own, when the parent has died, instead of ending the process after
	// OrphanGrace. The context has ended then.
	OnParentGone func()
}

// Parent is a child's side of the connection to the process that spawned it. Its methods may be
// called concurrently.
type Parent struct {
	// Spec has the orders. It must not be changed.
	Spec *spawnspec.Spec

	id      string // of this child
	joined  *handshake.Joined
	dial    func(context.Context) (net.Conn, error) // to the parent
	addr    transport.Addr                          // where that is; zero in the parent's own process
	sockets atomic.Int64                            // numbers this process's listening sockets; see listenBeside
	cfg     JoinConfig
	control func() (net.Conn, error) // see joining

	ctx        context.Context
	cancel     context.CancelCauseFunc
	gone       sync.Once       // the reaction to a parent that is gone
	open       context.Context // ends with Close, and not with ctx: a child that was asked to stop must still see its parent die
	close      context.CancelFunc
	attaching  context.Context // bounds the dial of the control connection: a child that fails at once has still to say why
	stopAttach context.CancelFunc
	watch      sync.WaitGroup // the goroutine on the control connection

	mu          sync.Mutex    // guards what follows; never held over input, output or a wait
	askedToStop chan struct{} // closed, and replaced, when what follows changes
	askedAt     time.Time     // when the parent asked this process to stop
	grace       time.Duration // how long it will wait from then on; 0 is unknown
	status      int           // what Close was called with
	reason      string
}

// parentKey is the key under which a Parent's Context has the Parent.
type parentKey struct{}

// ownParent is the parent that this process has joined.
var ownParent atomic.Pointer[Parent]

// parentOf returns the parent on whose behalf work under ctx is done, or nil: it differs from the process's own for
// entries that run in this process.
func parentOf(ctx context.Context) *Parent { return parentIn(ctx, ownParent.Load()) }

// parentIn returns the parent whose Context ctx derives from, or otherwise another.
func parentIn(ctx context.Context, otherwise *Parent) *Parent {
	if p, ok := ctx.Value(parentKey{}).(*Parent); ok {
		return p
	}
	return otherwise
}

// depth returns how deep in the tree p's process is; nil is the root.
func (p *Parent) depth() int {
	if p == nil {
		return 0
	}
	return p.Spec.Depth
}

// Join makes this process a child: it connects to the process that spawned it, proves who it is, and
// receives its orders. A program of its own calls it, where children of the spawning program
// itself use Register and Init. In a process that was not spawned the error is [ErrNotSpawned].
//
// A spare (Config.Spares) waits in Join for its orders, for hours perhaps. When its parent closes and has had no use for it the
// error is a [*CancelError], and the program should exit.
//
// ctx bounds the joining alone; Parent.Context is the one that ends when the child should.
func Join(ctx context.Context) (*Parent, error) { return JoinWith(ctx, JoinConfig{}) }

// JoinWith is Join with settings.
func JoinWith(ctx context.Context, cfg JoinConfig) (*Parent, error) {
	main := monotime.Now()
	ticket, ok, err := handshake.TakeTicket()
	switch {
	case !ok:
		return nil, ErrNotSpawned
	case err != nil:
		return nil, err
	}
	p, err := join(ctx, ticket, joining{cfg: cfg, init: monotime.Init, main: main, dial: dialer(ticket.Addr)})
	if err != nil {
		return nil, err
	}
	ownParent.Store(p)
	return p, nil
}

// joining is how a child joins.
type joining struct {
	cfg  JoinConfig
	init int64 // when the process began to run Go code; see package monotime
	main int64 // when Init or Join was called
	dial func(context.Context) (net.Conn, error)
	// control, if not nil, gives the child's end of a control connection that is there from the start; see
	// handshake.Expected.Serve. Otherwise one is dialled when the child is ready.
	control func() (net.Conn, error)
	// joined, if not nil, is called when the parent has been told that the child is ready.
	joined func()
	// forkedSpare tells that the child was forked and will wait for its spec. It does once, for nothing, what it will do with that: else each
	// page that it writes to would be copied between the spec and the answer.
	forkedSpare bool
	// check, if not nil, and then cfg.Prepare, say whether the child can do what its spec asks; the parent gets their
	// error.
	check func(*Parent) error
}

// join connects, shakes hands and answers the parent. A ctx that cannot end is no hang: the parent
// kills a child that is not ready in time, and a parent that dies ends the connection.
func join(ctx context.Context, t handshake.Ticket, how joining) (*Parent, error) {
	times := handshake.Timings{Init: how.init, Main: how.main}
	conn, err := how.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("forkspawn: join: %w", err)
	}
	times.Connected = monotime.Now()
	p := &Parent{id: t.ID, dial: how.dial, control: how.control, addr: t.Addr, cfg: how.cfg, askedToStop: make(chan struct{})}
	p.open, p.close = context.WithCancel(context.Background())
	p.attaching, p.stopAttach = context.WithCancel(context.Background())
	base, cancelBase := context.WithCancelCause(context.WithValue(context.Background(), parentKey{}, p))
	p.cancel = cancelBase
	if how.forkedSpare {
		rehearse(how.check)
	}
	p.joined, err = handshake.Join(ctx, conn, t, handshake.JoinConfig{
		Limit: p.cfg.Limit, OnCancel: p.asked, Control: how.control == nil, Ahead: how.control != nil, Meanwhile: warmUp, Rehearse: how.forkedSpare,
		Peek: p.cfg.Prepare == nil, // which may be where the child ends
	})
	switch {
	case errors.Is(err, handshake.ErrDismissed):
		return nil, context.Cause(base)
	case err != nil:
		return nil, fmt.Errorf("forkspawn: join: %w", err)
	}
	times.Accepted = monotime.Now()
	if p.Spec, err = spawnspec.Unmarshal(p.joined.Spec); err != nil {
		return nil, p.refuse(ctx, handshake.PhaseSpec, handshake.CodeBadSpec, err)
	}
	p.ctx = base
	if !p.Spec.Deadline.IsZero() {
		var stop context.CancelFunc
		p.ctx, stop = context.WithDeadline(base, p.Spec.Deadline)
		context.AfterFunc(base, stop)
	}
	if how.check != nil {
		if err := how.check(p); err != nil {
			return nil, p.refuse(ctx, handshake.PhaseSpec, handshake.CodeUnknownEntry, err)
		}
	}
	if p.cfg.Prepare != nil {
		if err := p.cfg.Prepare(p.Spec); err != nil {
			return nil, p.refuse(ctx, handshake.PhaseReady, handshake.CodeError, err)
		}
	}
	if err := p.joined.Ready(ctx, times); err != nil {
		p.joined.Channel.Abort()
		return nil, fmt.Errorf("forkspawn: join: %w", err)
	}
	p.watch.Go(p.watchControl)
	if how.joined != nil {
		how.joined()
	}
	return p, nil
}

// exampleSpec is a spec with its required fields.
const exampleSpec = "\xa6av\x01dnameaxedepth\x01eentryaxfmethoddexecfparent\xa3bidaxcpid\x01dnameax"

// warmUp decodes a spec for nothing, once, while the parent makes the real one; see handshake.JoinConfig.
var warmUp = sync.OnceFunc(func() { spawnspec.Unmarshal([]byte(exampleSpec)) })

// rehearse does for nothing what a child does with its spec; see joining.forkedSpare.
func rehearse(check func(*Parent) error) {
	if spec, err := spawnspec.Unmarshal([]byte(exampleSpec)); err == nil && check != nil {
		check(&Parent{Spec: spec})
	}
}

// refuse tells the parent why the child cannot do what it was asked.
func (p *Parent) refuse(ctx context.Context, phase handshake.Phase, code string, err error) error {
	p.joined.Fail(ctx, handshake.FailedError{Phase: phase, Code: code, Text: err.Error()})
	return fmt.Errorf("forkspawn: join: %s: %w", phase, err)
}

// Context ends when the parent asks the child to stop, when the parent is gone, when the spec's
// deadline passes, or after Close. It ends within moments, also while the child does not receive
// and has messages queued: the request comes over a connection of its own.
func (p *Parent) Context() context.Context { return p.ctx }

// Identity is who the parent says that it is.
func (p *Parent) Identity() handshake.Identity { return p.joined.Parent }

// Channel returns the channel to the parent.
func (p *Parent) Channel() *transport.Channel { return p.joined.Channel }

// Send sends v as one message; see transport.Channel.Send.
func (p *Parent) Send(ctx context.Context, v any) error {
	return p.explain(p.joined.Channel.Send(ctx, v))
}

// Recv receives one message into v; see transport.Channel.Recv. When the parent has asked the child to
// stop and then closed, the error is that request, not the close.
func (p *Parent) Recv(ctx context.Context, v any) error {
	return p.explain(p.joined.Channel.Recv(ctx, v))
}

// SendBytes sends b as one raw message; see transport.Channel.SendBytes.
func (p *Parent) SendBytes(ctx context.Context, b []byte) error {
	return p.explain(p.joined.Channel.SendBytes(ctx, b))
}

// RecvBytes receives one raw message into buf; see transport.Channel.RecvBytes.
func (p *Parent) RecvBytes(ctx context.Context, buf []byte) (int, error) {
	n, err := p.joined.Channel.RecvBytes(ctx, buf)
	return n, p.explain(err)
}

// RecvBorrowed receives one raw message in memory that is lent until the next receive; see
// transport.Channel.RecvBorrowed.
func (p *Parent) RecvBorrowed(ctx context.Context) ([]byte, error) {
	b, err := p.joined.Channel.RecvBorrowed(ctx)
	return b, p.explain(err)
}

// explain notices the parent's end, and lets a cancellation win over it.
func (p *Parent) explain(err error) error {
	var bye *transport.GoodbyeError
	switch {
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

// Close says goodbye with the status that the process is about to exit with, and closes the
// connections. Context ends. It takes at most a second.
func (p *Parent) Close(status int, reason string) error {
	p.mu.Lock()
	p.status, p.reason = status, reason
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), farewellBound)
	defer cancel()
	if status == 0 {
		p.stopAttach() // there is nothing to say there
	} else {
		defer context.AfterFunc(ctx, p.stopAttach)()
	}
	p.close()
	err := p.joined.Channel.CloseWith(ctx, status, reason)
	p.cancel(transport.ErrClosed)
	p.watch.Wait()
	p.stopAttach()
	return err
}

// farewellBound bounds Close, which has to reach a parent that may not listen.
const farewellBound = time.Second

// asked ends the context as the parent wants it. Of several requests the one counts that leaves the least time.
func (p *Parent) asked(c transport.Cancel) {
	now := time.Now()
	p.mu.Lock()
	sooner := c.Grace > 0 && (p.grace == 0 || now.Add(c.Grace).Before(p.askedAt.Add(p.grace)))
	if p.askedAt.IsZero() || sooner {
		p.askedAt, p.grace = now, c.Grace
		close(p.askedToStop)
		p.askedToStop = make(chan struct{})
	}
	p.mu.Unlock()
	p.cancel(&CancelError{Reason: c.Reason, Grace: c.Grace})
}

// demand returns when the parent asked this process to stop, and how long it will wait from then on; the zero
// time when it has not asked, 0 when it did not say how long. news is closed when that changes.
func (p *Parent) demand() (at time.Time, grace time.Duration, news <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.askedAt, p.grace, p.askedToStop
}

// parentGone ends the context and, a little later, the process: an orphan has nobody to work for and
// nobody who would end it.
func (p *Parent) parentGone() {
	if p.open.Err() != nil {
		return
	}
	p.gone.Do(func() {
		p.cancel(ErrParentGone)
		if p.cfg.OnParentGone != nil {
			go p.cfg.OnParentGone() // which may call Close
			return
		}
		time.AfterFunc(OrphanGrace, func() { os.Exit(ExitOrphan) })
	})
}

// watchControl reads the control connection until the parent is gone or Close is called. It dials it
// first: this is off the path to ready.
func (p *Parent) watchControl() {
	if p.control != nil {
		if ch, err := p.ownControl(); err == nil && p.obey(ch) != nil {
			p.parentGone()
		}
		return
	}
	if !p.joined.Control() {
		return
	}
	for tries := maxCuts; ; tries-- {
		ch, err := p.attachPatiently()
		if err != nil {
			// Only a socket that is not there any more tells that the parent is gone. Anything else leaves the
			// message channel to tell.
			if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, transport.ErrPeerGone) {
				p.parentGone()
			}
			return
		}
		attached := time.Now()
		switch err := p.obey(ch); {
		case err == nil:
			return
		case errors.Is(err, handshake.ErrRefused) && tries == maxCuts:
			return // the message channel tells
		case errors.Is(err, transport.ErrPeerGone) && tries > 0 && p.mayBeTurnedAway(attached):
		default:
			p.parentGone() // or it had taken the connection that was cut
			return
		}
	}
}

// obey does what the parent asks on the control connection until it says goodbye, or Close is called. Otherwise the error is
// ErrPeerGone when the connection was cut, and ErrRefused when the parent did not accept it.
func (p *Parent) obey(ch *transport.Channel) error {
	defer ch.Abort()
	for {
		f, err := ch.ReadFrame(p.open)
		switch {
		case err != nil && p.open.Err() != nil: // Close
			p.farewell(ch)
			return nil
		case errors.Is(err, transport.ErrPeerGone):
			return err
		case err != nil:
			p.cancel(fmt.Errorf("forkspawn: control connection: %w", err))
			return nil
		}
		switch f.Kind {
		case transport.KindCancel:
			c, _ := transport.ParseCancel(f.Body) // a request that cannot be read is one all the same
			p.asked(c)
		case transport.KindGoodbye: // the parent lets the child go
			p.cancel(&CancelError{Reason: "the parent closed the connection"})
			return nil
		case transport.KindFailed:
			return handshake.ErrRefused
		default:
			p.cancel(fmt.Errorf("forkspawn: control connection: %w: a %s frame", transport.ErrProtocol, f.Kind))
			return nil
		}
	}
}

// farewell says the goodbye of Close on the control connection too, where the parent finds it also when it
// does not receive: of a failure, as success has nothing to say.
func (p *Parent) farewell(control *transport.Channel) {
	if p.attaching.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewellBound)
	defer cancel()
	p.mu.Lock()
	status, reason := p.status, p.reason
	p.mu.Unlock()
	control.CloseWith(ctx, status, reason)
}
