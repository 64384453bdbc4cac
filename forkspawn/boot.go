package forkspawn

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// Spawn starts Config.Command as a child with the given spec and returns when
// the child is ready. It fills in Method, Depth and Grace of the spec, and an
// empty Name from Entry.
//
// Spawn returns as soon as the child is ready or has died, Config.BootTimeout
// has passed, ctx has ended or the Spawner is closed. It also returns when the
// child's connection could not be accepted for two seconds, mostly because
// descriptors are scarce. Every error is a [*BootError], and then nothing of
// the child is left.
//
// A thread of the Spawner starts the child, not the caller's. So attributes that
// the caller has set on its own thread do not reach the child: a network
// namespace (setns(2)), a nice value or a CPU affinity. Command.Sys has a nice value,
// and a command such as ip-netns(8) or taskset(1) before the program has the others.
//
// After Spawn has returned, the end of ctx does not affect the child. The
// caller must call [Child.Stop] or [Spawner.Close] in the end.
func (s *Spawner) Spawn(ctx context.Context, spec spawnspec.Spec, opts ...Option) (*Child, error) {
	return s.newBoot(ctx, s.options(opts...), spec, &s.report).run(ctx)
}

// Option changes one call of [Spawner.Spawn], [Group.Spawn] or [Group.Go].
type Option func(*options)

type options struct {
	cmd                   Command
	stdin, stdout, stderr Stream
	ownStreams            bool // some are not those of the Config
	program               bool // it does not speak the protocol; see WithProgram
	ready                 readiness
}

// WithCommand starts another program than Config.Command. A program other than
// this one must call [Join], or speak the protocol (docs/PROTOCOL.md).
func WithCommand(cmd Command) Option { return func(o *options) { o.cmd = cmd } }

// WithStdin, WithStdout and WithStderr set a standard stream of this child, in place
// of the Config's. Such a child is not taken from the spares.
func WithStdin(s Stream) Option {
	return func(o *options) { o.stdin, o.ownStreams = s, true }
}

// WithStdout is documented with [WithStdin].
func WithStdout(s Stream) Option {
	return func(o *options) { o.stdout, o.ownStreams = s, true }
}

// WithStderr is documented with [WithStdin].
func WithStderr(s Stream) Option {
	return func(o *options) { o.stderr, o.ownStreams = s, true }
}

// options returns the options of a call.
func (s *Spawner) options(opts ...Option) options {
	o := options{
		cmd: s.cfg.Command, stdin: s.cfg.Stdin, stdout: s.cfg.Stdout, stderr: s.cfg.Stderr,
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// boot is one call of Spawn, or the start of a spare.
type boot struct {
	options
	s      *Spawner
	spec   spawnspec.Spec
	report *reporter
	called moment
	caller context.Context // for events
}

// moment is a point in time, also by the clock that parent and child share.
type moment struct {
	time.Time
	clock int64 // see package monotime; 0 where there is no such clock
}

func now() moment { return moment{time.Now(), monotime.Now()} }

// attempt is one process on its way to ready. A boot has one. It has another
// one each time a spare ends before reading its spec.
type attempt struct {
	*boot
	id          string
	expected    *handshake.Expected
	child       *Child
	spare       bool          // it was started before the boot began
	connected   bool          // by a socket pair, so there is nothing to accept
	marked      *os.File      // the child's stdin with a mark, or nil; see setStdin
	lineWriters []*lineWriter // of the streams with Lines
	conns       net.Conn      // see openConns
	requests    net.Conn      // the same, of Command.Releasable
	began       moment        // when the process ran, or when a spare got its spec
}

func (s *Spawner) newBoot(
	ctx context.Context, o options, spec spawnspec.Spec, report *reporter,
) *boot {
	spec.Name = o.nameOf(&spec)
	return &boot{s: s, options: o, spec: spec, report: report, called: now(), caller: ctx}
}

// event returns an event of the start.
func (a *attempt) event(pid int, at time.Time) ChildEvent {
	return ChildEvent{a.spec.Name, a.id, pid, at, a.caller}
}

// nameOf returns the name of a child with this spec.
func (o *options) nameOf(spec *spawnspec.Spec) string {
	switch {
	case spec.Name != "":
		return spec.Name
	case o.program && o.cmd.Path != "":
		return filepath.Base(o.cmd.Path)
	}
	return spec.Entry
}

// run takes a spare, or starts a process, and waits until it is ready.
func (b *boot) run(ctx context.Context) (*Child, error) {
	if !b.s.begin() {
		return nil, b.fail(ErrSpawnerClosed)
	}
	defer b.s.boots.Done()
	if b.program {
		return b.runProgram(ctx)
	}
	spec, err := b.completeSpec(ctx)
	if err != nil {
		return nil, b.fail(err)
	}
	limits, release := b.limit(ctx)
	defer release()
	if b.s.spares.serves(b) {
		defer b.s.spares.refill() // at the end, because it takes time
	}
	for {
		a := b.fromSpare(limits.timed, spec)
		if a == nil {
			if a, err = b.fromProcess(limits.timed, spec); err != nil {
				return nil, b.fail(err)
			}
		}
		peer, err := a.awaitReady(limits)
		if a.spare && errors.Is(err, syscall.ECONNRESET) && limits.timed.Err() == nil {
			a.discard() // it ended without having read its spec
			continue
		}
		defer a.expected.Cancel()
		if a.spare {
			a.introduce(limits.ctx)
		}
		if err != nil {
			return nil, a.abandon(limits.ctx, err)
		}
		return a.finish(peer), nil
	}
}

// completeSpec fills in the spec and encodes it.
func (b *boot) completeSpec(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, wait.Cause(ctx)
	}
	s := b.s
	b.spec.Depth, b.spec.Grace = parentOf(ctx).depth()+1, s.cfg.StopGrace
	if b.cmd.Path == "" && s.cfg.Start == nil && b.spec.Entry == "" {
		return nil, &spawnspec.FieldError{
			Field: "entry", Err: errors.New(
				"empty; a child of this very program needs the name of a registered entry"),
		}
	}
	return b.encodeSpec(s.forks.serves(&b.cmd))
}

// encodeSpec sets the method of the spec and encodes it. forked is false for a
// child that is executed: with MethodForkserver too, if it is another program.
func (b *boot) encodeSpec(forked bool) ([]byte, error) {
	b.spec.Method = string(b.methodOf(forked))
	return spawnspec.Marshal(&b.spec)
}

// methodOf returns the start method of a child.
func (b *boot) methodOf(forked bool) Method {
	if b.s.forks != nil && !forked {
		return MethodExec
	}
	return b.s.cfg.Method
}

// fromProcess starts a process that gets spec or, when spec is nil, waits for
// it as a spare. After an error nothing of the process is left.
func (b *boot) fromProcess(ctx context.Context, spec []byte) (*attempt, error) {
	s := b.s
	if ctx.Err() != nil {
		return nil, wait.Cause(ctx)
	}
	forked, err := s.forks.ready(ctx, &b.cmd)
	if err != nil {
		return nil, err
	}
	// The template may have refused after the spec was encoded. Then the method
	// is another one.
	if spec != nil && string(b.methodOf(forked)) != b.spec.Method {
		if spec, err = b.encodeSpec(forked); err != nil {
			return nil, err
		}
	}
	if err := s.restoreSocket(); err != nil {
		return nil, err
	}
	a := &attempt{boot: b}
	tellPhase, started := a.phaseReporter()
	defer started()
	// This comes before the start, so that the child cannot connect too early.
	a.expected, err = s.peers.Expect(handshake.Expectation{Spec: spec, OnPhase: tellPhase})
	if err != nil {
		return nil, err
	}
	if spec == nil {
		a.expected.Internal(access.Key{}).HoldSpec()
	}
	ticket := a.expected.Ticket()
	ticket.Addr, a.id = s.addr, ticket.ID
	proc, streams, err := a.launch(ctx, ticket, forked)
	if err != nil {
		a.unmark()
		// a start that Do has abandoned can still write
		nameLines(a.lineWriters, ChildEvent{Name: b.spec.Name, ID: a.id})
		a.expected.Cancel()
		return nil, err
	}
	b.report.phase(a.start(ctx, proc, streams, spec == nil), handshake.PhaseConnect)
	started() // before SetPID, which reports the phases of a child that is already connected
	a.expected.SetPID(proc.PID())
	return a, nil
}

// start makes a Child of a process that has just been started, and reports it.
func (a *attempt) start(
	ctx context.Context, proc Process, streams capture.Streams, spare bool,
) ChildEvent {
	a.began = now()
	event := a.event(proc.PID(), a.began.Time)
	nameLines(a.lineWriters, event)
	a.report.started(event)
	a.child = newChild(a, proc, streams, spare) // its end can be reported from now on
	a.child.onBehalfOf = parentOf(ctx)
	return event
}

// phaseReporter returns a function for Expectation.OnPhase, or nil when nobody
// asked for phases. The function waits until started is called, because the
// child can connect before its start has been reported.
func (a *attempt) phaseReporter() (report func(handshake.Phase, time.Time), started func()) {
	if a.report.trace.Phase == nil {
		return nil, func() {}
	}
	reported := make(chan struct{})
	return func(p handshake.Phase, at time.Time) {
		<-reported
		if a.child != nil {
			a.report.phase(a.event(a.child.PID(), at), p)
		}
	}, sync.OnceFunc(func() { close(reported) })
}

// launch starts the process with its streams.
func (a *attempt) launch(
	ctx context.Context, ticket handshake.Ticket, forked bool,
) (Process, capture.Streams, error) {
	s := a.s
	if err := a.checkReleasable(); err != nil {
		return nil, capture.Streams{}, err
	}
	if s.local != nil && !a.program {
		return a.launchLocal(ticket)
	}
	if a.cmd.Launcher != nil {
		return a.launchAway(ctx, ticket)
	}
	if err := a.checkUser(); err != nil {
		return nil, capture.Streams{}, err
	}
	attr := ProcessAttr{Command: a.cmd, Dir: a.spec.Dir, OwnGroup: true,
		leash: (a.program || a.cmd.Releasable) && !s.cfg.NoParentDeathSignal}
	if s.cfg.Subreaper {
		attr.Env = s.reaper.Mark(a.id, attr.Env)
	}
	attr.Env = osproc.Without(attr.Env, handshake.TicketEnv, template.FilesEnv)
	if err := checkStreams(a.stdin, a.stdout, a.stderr); err != nil {
		return nil, capture.Streams{}, err
	}
	if err := a.setStdin(&attr, ticket, forked); err != nil {
		return nil, capture.Streams{}, err
	}
	if !s.cfg.NoParentDeathSignal && !a.cmd.Releasable { // it cannot be taken back
		attr.ParentDeathSignal = sigkill
	}
	streams, err := a.openStreams(&attr)
	if err != nil {
		return nil, capture.Streams{}, err
	}
	proc, err := a.startProcess(ctx, &attr, forked)
	streams.Started()
	if err != nil {
		streams.End()
		streams.Close()
		return nil, capture.Streams{}, err
	}
	streams.Feed()
	return proc, streams, nil
}

// startOnThread starts a process on the Spawner's thread.
func (s *Spawner) startOnThread(ctx context.Context, attr *ProcessAttr) (Process, error) {
	return s.onThread(ctx, attr.Path, attr.Dir, func() (Process, error) {
		if s.cfg.Start == nil {
			return startProcess(ctx, attr)
		}
		public := *attr
		if attr.ticket != nil {
			public.Env, public.ticket = append(attr.Env, string(attr.ticket)), nil
		}
		return s.cfg.Start(ctx, public)
	})
}

// connection returns the server of a forked child's socket pairs. It is nil
// over TCP and TLS, because there the child must dial.
func (a *attempt) connection() (serve func(message, control net.Conn)) {
	if a.s.addr.Scheme != transport.SchemeUDS {
		return nil
	}
	a.connected = true
	return a.expected.Internal(access.Key{}).UsePair
}

// letGoPause is the longest time that a child over TCP waits for the end of its
// connection, if the program neither receives from the child nor stops it.
const letGoPause = 50 * time.Millisecond

// finish makes a Child of a peer that is ready.
func (a *attempt) finish(peer *handshake.Peer) *Child {
	a.child.peer, a.child.boot = peer,
		a.times(a.expected.Internal(access.Key{}).Timings(), monotime.Now())
	peer.SetDeadAfter(a.spec.DeadAfter)
	a.report.ready(a.event(a.child.PID(), time.Now()), a.child.boot) // before anybody can stop it
	a.s.add(a.child)
	if a.s.addr.Scheme != transport.SchemeUDS {
		life := a.child.releasing.life()
		a.s.reaps.Go(func() { a.child.letGo(life, time.Millisecond, letGoPause) })
	}
	a.s.spares.worked(a.boot)
	return a.child
}

// BootTimes says where the time of a successful Spawn went. A time that is not
// known is 0. The child reports its own moments, and they can only be compared
// when parent and child share a clock (Linux).
type BootTimes struct {
	Launch time.Duration // from the call of Spawn until the process was started
	// until this library's first package init in the child: exec, loader, Go runtime
	Runtime time.Duration
	Init    time.Duration // until the child called Init or Join: the package inits
	Connect time.Duration // until the child was connected
	Hello   time.Duration // until the child had its welcome and its spec and had checked them
	Ready   time.Duration // until Spawn had the child's ready
	Total   time.Duration
	// Spare reports that the child was a spare (Config.Spares). Then the
	// times before Hello are 0, because the child was connected before
	// Spawn was called, and Hello counts from that call.
	Spare bool
}

// times makes BootTimes of the child's moments. ready is the moment of its
// ready message here.
func (a *attempt) times(c access.Timings, ready int64) BootTimes {
	t := BootTimes{Total: time.Since(a.called.Time), Spare: a.spare}
	spawned, started := a.called.clock, a.began.clock
	// A child in another time namespace, or one that invents its moments,
	// yields no times.
	switch {
	case spawned == 0:
	case t.Spare:
		if spawned <= c.Accepted && c.Accepted <= ready {
			t.Hello, t.Ready = time.Duration(c.Accepted-spawned), time.Duration(ready-c.Accepted)
		}
	default:
		if c.Init > spawned {
			started = min(started, c.Init) // the child can run before Spawn knows that it does
		}
		t.Launch = time.Duration(started - spawned)
		if c.Init < spawned || c.Main < c.Init || c.Connected < c.Main ||
			c.Accepted < c.Connected || ready < c.Accepted {
			break
		}
		t.Runtime = time.Duration(c.Init - started)
		t.Init = time.Duration(c.Main - c.Init)
		t.Connect = time.Duration(c.Connected - c.Main)
		t.Hello = time.Duration(c.Accepted - c.Connected)
		t.Ready = time.Duration(ready - c.Accepted)
	}
	return t
}
