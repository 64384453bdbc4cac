package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// Spawn starts Config.Command as a child with the given orders and returns when the child is ready.
// Method, Depth, Grace and Parent of the spec are filled in, and Name, if empty, from Entry.
//
// It returns as soon as the child is ready, has died, the boot timeout has passed, ctx has ended or the
// Spawner is closed, whichever comes first; or when, for want of descriptors mostly, the child's connection
// could not be accepted for two seconds. Every error is a [*BootError], and nothing of the child is
// left then.
//
// Once Spawn has returned, ctx has no more to do with the child. The caller calls Child.Stop in the end, or
// Close.
func (s *Spawner) Spawn(ctx context.Context, spec spawnspec.Spec) (*Child, error) {
	return s.SpawnCommand(ctx, s.cfg.Command, spec)
}

// SpawnCommand is Spawn with a program of the caller's choice. A program other than this one calls
// [Join], or speaks the protocol (docs/PROTOCOL.md).
func (s *Spawner) SpawnCommand(ctx context.Context, cmd Command, spec spawnspec.Spec) (*Child, error) {
	return s.newBoot(cmd, spec, &s.tell).run(ctx)
}

// boot is one call of Spawn, or the start of a spare.
type boot struct {
	s     *Spawner
	cmd   Command
	spec  spawnspec.Spec
	tell  *teller
	began time.Time
	times bootTimes

	id        string
	x         *handshake.Expected
	forked    bool      // from a template, and not executed
	connected bool      // by a pair, so that there is nothing to accept
	child     *Child    // from when the process runs
	started   time.Time // when the process ran
	given     time.Time // when the spare that was taken got its orders; else zero
}

func (s *Spawner) newBoot(cmd Command, spec spawnspec.Spec, tell *teller) *boot {
	return &boot{s: s, cmd: cmd, spec: spec, tell: tell, began: time.Now(), times: bootTimes{spawn: monotime.Now()}}
}

func (b *boot) run(ctx context.Context) (*Child, error) {
	if !b.s.begin() {
		return nil, b.fail(handshake.PhaseStart, ErrClosed)
	}
	defer b.s.boots.Done()
	orders, err := b.orders(ctx)
	if err != nil {
		return nil, b.fail(handshake.PhaseStart, err)
	}
	spares := b.s.spares.serves(b)
	given := spares && b.giveSpareAtOnce(orders)
	l, release := b.limit(ctx)
	defer release()
	if spares {
		defer b.s.spares.refill() // and not before, as that takes time from this one
		for given || b.giveSpare(l.timed, orders) {
			given = false
			peer, err := b.await(l, b.raceAnswer)
			if errors.Is(err, transport.ErrReset) && l.timed.Err() == nil {
				b.discardSpare() // it has ended without having read its orders
				continue
			}
			defer b.x.Cancel()
			b.introduce(l.ctx)
			if err != nil {
				return nil, b.abandon(l.ctx, err)
			}
			return b.finish(peer), nil
		}
	}
	if err := b.start(l.timed, handshake.Expectation{Spec: orders}); err != nil {
		return nil, b.fail(handshake.PhaseStart, err)
	}
	defer b.x.Cancel()
	race := b.raceAnswer
	if !b.connected {
		race = Race
		defer b.watchAccept(l.cancel)()
	}
	peer, err := b.await(l, race)
	if err != nil {
		return nil, b.abandon(l.ctx, err)
	}
	return b.finish(peer), nil
}

// bootLimits are what ends a boot before its time: the caller's context and the Spawner's end, and, for timed,
// Config.BootTimeout.
type bootLimits struct {
	ctx, timed context.Context
	cancel     context.CancelCauseFunc
}

// limit returns the limits of a boot that begins now.
func (b *boot) limit(ctx context.Context) (l bootLimits, release func()) {
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	detach := context.AfterFunc(b.s.ctx, func() { l.cancel(ErrClosed) })
	timed, stop := context.WithTimeoutCause(l.ctx, b.s.cfg.BootTimeout, ErrBootTimeout)
	l.timed = timed
	return l, func() {
		stop()
		detach()
		l.cancel(nil)
	}
}

// await waits with race, and longer than Config.BootTimeout for a child that a debugger holds.
func (b *boot) await(l bootLimits, race func(context.Context, *handshake.Expected, <-chan struct{}) (*handshake.Peer, error)) (*handshake.Peer, error) {
	peer, err := race(l.timed, b.x, b.child.gone)
	for errors.Is(err, ErrBootTimeout) && b.s.heldByDebugger(l.ctx, b.child) {
		more, stop := context.WithTimeoutCause(l.ctx, debuggerPause, ErrBootTimeout)
		peer, err = race(more, b.x, b.child.gone)
		stop()
	}
	return peer, err
}

// finish makes a child of a peer that is ready.
func (b *boot) finish(peer *handshake.Peer) *Child {
	b.times.ready = monotime.Now()
	b.times.child = peer.Timings
	b.child.peer, b.child.boot = peer, b.times.durations(time.Since(b.began), b.given.IsZero())
	b.tell.ready(b.child.event(), b.child.boot) // before anybody can stop it
	b.s.add(b.child)
	b.s.spares.worked(b)
	return b.child
}

// orders fills in the spec and encodes it.
func (b *boot) orders(ctx context.Context) ([]byte, error) {
	s := b.s
	if err := ctx.Err(); err != nil {
		return nil, contextError(ctx)
	}
	if b.spec.Name == "" {
		b.spec.Name = b.spec.Entry
	}
	self := s.peers.Identity()
	b.forked = s.forks.serves(&b.cmd)
	b.spec.Method = b.method()
	b.spec.Depth, b.spec.Grace = parentOf(ctx).depth()+1, s.cfg.StopGrace
	b.spec.Parent = spawnspec.Identity{ID: self.ID, Name: self.Name, PID: self.PID}
	if b.cmd.Path == "" && s.cfg.Starter == nil && b.spec.Entry == "" {
		return nil, &spawnspec.FieldError{Field: "entry", Reason: "empty; a child of this very program needs the name of a registered entry"}
	}
	return spawnspec.Marshal(&b.spec)
}

// method is the start method of this child: another program than the template's is executed.
func (b *boot) method() string {
	if b.s.forks != nil && !b.forked {
		return MethodExec
	}
	return b.s.cfg.Method
}

// start registers the child, of which e says what it gets, and starts its process. On an error nothing is left.
func (b *boot) start(ctx context.Context, e handshake.Expectation) (err error) {
	s := b.s
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if b.forked, err = s.forks.ready(ctx, &b.cmd); err != nil {
		return err
	}
	if method := b.method(); e.Spec != nil && method != b.spec.Method { // it has just turned out that it cannot be forked
		b.spec.Method = method
		if e.Spec, err = spawnspec.Marshal(&b.spec); err != nil {
			return err
		}
	}
	b.id = handshake.NewID()
	// Before the process can be there, so that it cannot come too early.
	tell, started := b.onPhase()
	defer started()
	e.ID, e.OnPhase = b.id, tell
	if s.local != nil { // elsewhere nobody but the Listener keeps it
		e.Secret = handshake.NewSecret()
	}
	if b.x, err = s.peers.Expect(e); err != nil {
		return err
	}
	proc, streams, err := b.launch(ctx, handshake.Ticket{Addr: s.addr, ID: b.id, Secret: e.Secret})
	if err != nil {
		b.x.Cancel()
		return err
	}
	b.started, b.times.started = time.Now(), monotime.Now()
	event := ChildEvent{b.spec.Name, b.id, proc.PID(), b.started}
	b.tell.started(event)
	b.tell.phase(event, handshake.PhaseConnect)
	b.child = newChild(b, proc, streams, e.Reserve) // from now on its end can be told
	b.child.onBehalfOf = parentOf(ctx)
	started() // before SetPID, which tells of a child that has connected already
	b.x.SetPID(proc.PID())
	return nil
}

// onPhase returns what tells of the phases, or nil, and what is called when it has been told that the
// process runs, as the first phase can come before that is known.
func (b *boot) onPhase() (tell func(handshake.Phase, time.Time), started func()) {
	if b.tell.trace.Phase == nil {
		return nil, func() {}
	}
	told := make(chan struct{})
	return func(p handshake.Phase, at time.Time) {
		<-told
		if b.child != nil {
			b.tell.phase(ChildEvent{b.spec.Name, b.id, b.child.PID(), at}, p)
		}
	}, sync.OnceFunc(func() { close(told) })
}

// launch starts the process with its streams. The ticket's secret is that of an entry in this process, else zero.
func (b *boot) launch(ctx context.Context, ticket handshake.Ticket) (Process, streams, error) {
	cfg := &b.s.cfg
	if b.s.local != nil {
		return b.launchLocal(ticket)
	}
	cmd := b.cmd
	if cfg.Subreaper {
		cmd.Env = b.s.reaper.mark(b.id, cmd)
	}
	attr := ProcessAttr{Command: cmd, Dir: b.spec.Dir, OwnGroup: true, spare: b.x.Welcomed() != nil}
	attr.Env = without(cmd.Env, handshake.TicketEnv)
	attr.ticket = b.x.AppendTicket([]byte(handshake.TicketEnv+"="), ticket.Addr)
	defer clear(attr.ticket)
	if cfg.Starter != nil {
		attr.Env = append(attr.Env, string(attr.ticket))
	}
	if !cfg.NoParentDeathSignal {
		attr.ParentDeathSignal = sigkill
	}
	attr.Stdin = cfg.Stdin.passed(os.Stdin)
	st, err := openStreams(cfg, &attr)
	if err != nil {
		return nil, streams{}, err
	}
	start := func() (Process, error) {
		if cfg.Starter != nil {
			public := attr
			public.ticket = nil
			return cfg.Starter.Start(ctx, public)
		}
		p, err := StartProcess(attr)
		if err != nil {
			return nil, err // and not a nil *OSProcess in an interface
		}
		return p, nil
	}
	var proc Process
	if b.forked {
		proc, err = b.s.forks.fork(ctx, &attr, b.connection())
	} else {
		proc, err = b.s.thread.do(ctx, func() (Process, error) {
			p, err := b.s.reaper.started(start)
			if err == nil {
				b.s.forks.started(p)
			}
			return p, err
		})
	}
	st.started()
	if err != nil {
		st.end()
		return nil, streams{}, err
	}
	return proc, st, nil
}

// connection returns what serves the connections of a pair that a forked child has from its start. It is nil over
// TCP and TLS: who asked for these gets them.
func (b *boot) connection() (serve func(message, control net.Conn)) {
	if b.s.addr.Scheme != transport.SchemeUDS {
		return nil
	}
	b.connected = true
	return b.x.Serve
}

// dyingBound is how long Spawn waits for the exit status of a child whose handshake has failed: the
// news of a death comes by two ways, and a child that reports a failure ends just after, which on a busy
// machine takes its time. Only a child that goes on regardless costs all of it.
const dyingBound = time.Second

// abandon makes the error of a boot that failed after the process was started, and leaves nothing of it.
func (b *boot) abandon(ctx context.Context, cause error) error {
	c := b.child
	phase := b.x.Phase()
	var herr *handshake.Error
	fromPeer := errors.As(cause, &herr)
	if fromPeer {
		phase, cause = herr.Phase, herr.Err
	} else if refused := b.x.Refused(); refused != nil {
		// Somebody with the child's id was refused, most likely the child itself.
		if errors.As(refused, &herr) {
			phase, refused = herr.Phase, herr.Err
		}
		if cause == ErrDied {
			cause = refused
		} else {
			cause = fmt.Errorf("%w; %w", cause, refused)
		}
	} else {
		cause = b.withAcceptError(cause)
	}
	died := isClosed(c.gone)
	if fromPeer && !died {
		died = c.awaitGone(ctx, dyingBound)
	}
	if died && errors.Is(cause, transport.ErrPeerGone) {
		cause = ErrDied // the same news, told better by its status
	}
	failure := time.Now()
	if !died {
		c.signalGroup(sigkill)
		if !c.awaitGone(context.Background(), killBound) {
			cause = fmt.Errorf("%w; %w", cause, errUnkillable)
		}
	}
	err := b.failAt(phase, cause, failure)
	err.PID = c.PID()
	if died {
		err.Status = c.status
	}
	err.Stderr = c.StderrTail()
	b.tell.bootFailed(err)
	return err
}

// fail makes the error of a boot that failed before there was a process.
func (b *boot) fail(phase handshake.Phase, cause error) *BootError {
	err := b.failAt(phase, cause, time.Now())
	b.tell.bootFailed(err)
	return err
}

func (b *boot) failAt(phase handshake.Phase, cause error, at time.Time) *BootError {
	return &BootError{
		Name: b.spec.Name, ID: b.id, Phase: phase, Err: cause,
		Elapsed: at.Sub(b.began), Phases: b.phases(at),
	}
}

// phases shares the time until the failure among the phases that were begun.
func (b *boot) phases(end time.Time) []PhaseTime {
	current, begun := handshake.PhaseConnect, b.started
	later := []handshake.Phase{handshake.PhaseHello, handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady}
	switch {
	case !b.given.IsZero(): // the rest was over before Spawn was called
		current, begun, later = handshake.PhaseSpec, b.given, later[3:]
	case b.started.IsZero():
		return []PhaseTime{{handshake.PhaseStart, end.Sub(b.began)}}
	}
	since := b.x.Since()
	list := []PhaseTime{{handshake.PhaseStart, begun.Sub(b.began)}}
	for _, p := range later {
		if t, ok := since[p]; ok {
			if t.Before(begun) {
				t = begun // the child can be faster than the news of its start
			}
			list = append(list, PhaseTime{current, t.Sub(begun)})
			current, begun = p, t
		}
	}
	return append(list, PhaseTime{current, end.Sub(begun)})
}

// contextError is the context's kind of end and its cause, for errors.Is to find both.
func contextError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == cause {
		return err
	}
	return &bothErrors{cause, err}
}

// bothErrors reads as its first error and matches both.
type bothErrors struct{ said, also error }

func (e *bothErrors) Error() string   { return e.said.Error() }
func (e *bothErrors) Unwrap() []error { return []error{e.said, e.also} }

// bootTimes are moments of a boot by the clock that parent and child share; see package monotime.
type bootTimes struct {
	spawn, started, ready int64
	child                 handshake.Timings
}

// BootTimes says where the time of a successful Spawn went. What is not known is 0: the child tells its
// own moments, and only where parent and child share a clock (Linux).
type BootTimes struct {
	Launch  time.Duration // from the call of Spawn until the process had been started
	Runtime time.Duration // until this library's first package init in the child: exec, loader, Go runtime
	Init    time.Duration // until the child called Init or Join: the package inits
	Connect time.Duration // until it was connected
	Hello   time.Duration // until it had its welcome and its spec and found them good
	Ready   time.Duration // until Spawn had the child's ready
	Total   time.Duration
	// Spare tells that the child was a spare (Config.Spares): what is before Hello was over when Spawn was called, and is 0, and
	// Hello is the time from that call.
	Spare bool
}

// durations makes BootTimes of a process that was started for this call, or of a spare.
func (t bootTimes) durations(total time.Duration, started bool) BootTimes {
	d := BootTimes{Total: total, Spare: !started}
	if t.spawn == 0 {
		return d
	}
	c := t.child
	if d.Spare {
		if t.spawn <= c.Accepted && c.Accepted <= t.ready {
			d.Hello, d.Ready = time.Duration(c.Accepted-t.spawn), time.Duration(t.ready-c.Accepted)
		}
		return d
	}
	if c.Init > t.spawn {
		t.started = min(t.started, c.Init) // the child can be faster than the news of its start
	}
	d.Launch = time.Duration(t.started - t.spawn)
	// A child in another time namespace, or one that makes its moments up, tells nothing.
	if c.Init < t.spawn || c.Main < c.Init || c.Connected < c.Main || c.Accepted < c.Connected || t.ready < c.Accepted {
		return d
	}
	d.Runtime = time.Duration(c.Init - t.started)
	d.Init = time.Duration(c.Main - c.Init)
	d.Connect = time.Duration(c.Connected - c.Main)
	d.Hello = time.Duration(c.Accepted - c.Connected)
	d.Ready = time.Duration(t.ready - c.Accepted)
	return d
}
