package forkspawn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

const (
	// leaseGrace is the time from the end of a lease until the kernel kills the process.
	leaseGrace = 2 * time.Second
	// requestBound bounds each step with a parent that releases the process or takes it
	// over. It is there for a parent that is stopped.
	requestBound = 10 * time.Second
	// nextPause is the pause after an accept that failed for lack of descriptors.
	nextPause = 50 * time.Millisecond
)

// Next lets the parent release this process ([Child.Release]), waits for the next parent,
// and returns it. A daemon calls it in a loop and keeps its state:
//
//	for err == nil {
//		go talk(parent) // until parent.Context ends
//		parent, err = parent.Next(parent.Context())
//	}
//	return err
//
// With the release the Context of the former parent ends, with the cause [ErrReleased].
// Next does not mind that end in its own ctx. The next Parent has the files and the Args
// of the former one. The process exits as it would with the former one, by the rules of
// [Run], [Parent.Exit] and JoinConfig.OnParentGone.
//
// Next returns an error if the process should end instead: the cause of the Context, such
// as a [*CancelError], or one that matches [ErrParentGone] if nobody has come within the
// lease. In the latter case the process is ended as after the parent's death, and by the
// kernel (SIGKILL) after two seconds more. If ctx ends, the error is that of ctx, and
// Next can be called again. In a process without [Command.Releasable] Next waits until
// the process should end.
func (p *Parent) Next(ctx context.Context) (*Parent, error) {
	fail := func(err error) (*Parent, error) {
		return nil, prefixed("wait for the next parent", err)
	}
	select {
	case p.nexting <- struct{}{}:
		defer func() { <-p.nexting }()
	case <-ctx.Done():
		return fail(wait.Cause(ctx))
	}
	if p.next.Load() != nil {
		return fail(ErrReleased)
	}
	var err error
	if p.waiting == nil {
		if p.waiting, err = p.awaitRelease(ctx); err != nil {
			return fail(err)
		}
	}
	if errors.Is(context.Cause(ctx), ErrReleased) {
		ctx = context.WithoutCancel(ctx) // the lease bounds the wait
	}
	next, err := p.waiting.accept(ctx)
	if err != nil {
		return fail(err)
	}
	p.next.Store(next)
	ownParent.CompareAndSwap(p, next)
	return next, nil
}

// latest returns the parent that has taken this process over last.
func (p *Parent) latest() *Parent {
	for p != nil && p.next.Load() != nil {
		p = p.next.Load()
	}
	return p
}

// takeRequests takes the connection for Next from the files.
func (p *Parent) takeRequests() (err error) {
	if f := p.files[requestsName]; f != nil {
		delete(p.files, requestsName)
		p.requests, err = net.FileConn(f)
		f.Close()
	}
	p.releasable = p.requests != nil
	return explainScarcity(err)
}

// awaitRelease answers the parent's requests until one of them succeeds.
func (p *Parent) awaitRelease(ctx context.Context) (*nextParent, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(context.Cause(p.ctx)) })()
	for p.requests != nil && ctx.Err() == nil {
		conns, err := receiveConns(ctx, p.requests, 1)
		if err != nil { // scarcity, which passes, or the parent is gone, which ends p.ctx
			wait.For(ctx, nil, nextPause)
			continue
		}
		if w := p.letGo(ctx, conns[0]); w != nil {
			return w, nil
		}
	}
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// letGo answers one request. It returns nil if the parent keeps this process.
func (p *Parent) letGo(ctx context.Context, conn net.Conn) (w *nextParent) {
	ch := transport.New(conn, transport.Config{MaxFrameSize: access.PreAuthLimit})
	defer ch.Abort()
	defer func() {
		if w != nil && !w.begun.Load() {
			w.end()
			w = nil
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	var lease int64
	if ch.Recv(ctx, &lease) != nil {
		return nil
	}
	w, err := p.waitForNext(ctx, time.Duration(lease))
	if err != nil {
		ch.Send(ctx, releaseAnswer{Error: err.Error()})
		return nil
	}
	answer, last := releaseAnswer{Ticket: w.ticket.Encode()}, false
	if ch.Send(ctx, answer) != nil || ch.Recv(ctx, &last) != nil {
		return w // the parent has given up or died
	}
	farewell, done := context.WithTimeout(context.WithoutCancel(ctx), farewellBound)
	defer done()
	p.cancel(ErrReleased)
	if cause := context.Cause(p.ctx); !errors.Is(cause, ErrReleased) {
		ch.Send(farewell, releaseAnswer{Error: "it ends: " + cause.Error()})
		return w
	}
	w.begun.Store(true)
	p.requests.Close()
	p.close() // from now on the parent's death is not this process's
	p.stopAttach()
	p.joined.Channel.Abort()
	p.watch.Wait()
	ch.Send(farewell, releaseAnswer{})
	if w.lease.Err() != nil { // it has ended before begun was set
		w.expire()
	}
	return w
}

// nextParent is the wait for the next parent.
type nextParent struct {
	p      *Parent
	dir    *unixsock.Dir
	ln     net.Listener
	ticket handshake.Ticket
	until  time.Time // the end of the lease
	timer  *time.Timer
	disarm func()             // ends the kernel's timer; see arm
	begun  atomic.Bool        // the former parent has let this process go
	lease  context.Context    // ends with the lease
	over   context.CancelFunc // ends lease
	once   sync.Once          // runs end
}

// waitForNext opens a socket for the next parent, and begins the lease.
func (p *Parent) waitForNext(ctx context.Context, lease time.Duration) (*nextParent, error) {
	dir, err := unixsock.NewDir()
	if err != nil {
		return nil, publicError(osproc.NoPlace(err))
	}
	addr := transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("s")}
	w := &nextParent{p: p, dir: dir, until: time.Now().Add(lease), disarm: func() {}}
	w.lease, w.over = context.WithCancel(context.Background())
	if w.ln, err = uds.Listen(ctx, addr); err != nil {
		dir.Remove()
		return nil, publicError(osproc.NoPlace(err))
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	w.ticket, err = handshake.ParseTicket(fmt.Sprintf("1 %s %x %s", p.id, secret, addr))
	if err == nil {
		err = w.arm(lease)
	}
	if err != nil {
		w.end()
		return nil, err
	}
	w.timer = time.AfterFunc(lease, w.expire)
	return w, nil
}

// arm lets the kernel kill this process some time after d.
func (w *nextParent) arm(d time.Duration) error {
	disarm, err := osproc.KillAfter(d + leaseGrace)
	if err == nil {
		w.disarm()
		w.disarm = disarm
	}
	return err
}

// expire ends the process, because nobody has come.
func (w *nextParent) expire() {
	w.over()
	if w.begun.Load() {
		w.ln.Close() // so that nobody comes any more
		w.p.orphan()
	}
}

// end ends the wait. The process has a parent.
func (w *nextParent) end() {
	w.once.Do(func() {
		if w.timer != nil {
			w.timer.Stop()
		}
		w.disarm()
		w.over()
		w.ln.Close()
		w.dir.Remove()
	})
}

// accept waits for the next parent.
func (w *nextParent) accept(ctx context.Context) (*Parent, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.lease, cancel)()
	defer wait.Deadline(ctx, w.ln.(interface{ SetDeadline(time.Time) error }).SetDeadline)()
	for ctx.Err() == nil {
		conn, err := w.ln.Accept()
		if err != nil {
			wait.For(ctx, nil, nextPause)
			continue
		}
		next, err := w.meet(ctx, conn)
		conn.Close()
		if err == nil {
			w.end()
			return next, nil
		}
	}
	if w.lease.Err() != nil {
		w.p.orphan()
		w.dir.Remove()
		return nil, fmt.Errorf("nobody has come within the lease: %w", ErrParentGone)
	}
	return nil, wait.Cause(ctx)
}

var errTooLate = errors.New("the lease has ended")

// meet makes the handshake with a process that may be the next parent. If it fails, the
// lease goes on.
func (w *nextParent) meet(ctx context.Context, conn net.Conn) (*Parent, error) {
	ctx, cancel := context.WithTimeout(ctx, requestBound)
	defer cancel()
	conns, err := receiveConns(ctx, conn, 3)
	if err != nil {
		return nil, err
	}
	given := func(i int) func() (net.Conn, error) {
		return func() (net.Conn, error) { return conns[i], nil }
	}
	how := joining{
		cfg: w.p.cfg, files: w.p.files, requests: conns[2],
		init: monotime.Init, main: monotime.Now(),
		dial:    func(context.Context) (net.Conn, error) { return conns[0], nil },
		control: given(1),
		check: func(next *Parent) error { // the parent is known, and waits for our ready
			if !w.timer.Stop() {
				return errTooLate
			}
			w.arm(requestBound) // for the rest of the handshake
			next.spec.Args = w.p.spec.Args
			return nil
		},
	}
	how.cfg.ReadyLater = false
	next, err := join(ctx, w.ticket, how)
	if err != nil {
		closeAll(conns)
		if rest := time.Until(w.until); w.lease.Err() == nil {
			w.arm(max(rest, time.Millisecond))
			w.timer.Reset(rest)
		}
		return nil, err
	}
	return next, nil
}
