package forkspawn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// forkserver forks the children of a Spawner with MethodForkserver. Its methods
// may be called concurrently. A nil forkserver forks nothing.
type forkserver struct {
	s *Spawner
	t *template.Forkserver

	untested error // if not nil, why this program's Go version is refused

	mu sync.Mutex // guards what follows
	// if not nil, why children are executed instead; see Config.ForkserverFallback
	refused error
}

// templateName is the template's name in errors and in the events of Lines.
const templateName = "template"

func newForkserver(s *Spawner) *forkserver {
	f := &forkserver{s: s, untested: template.CheckGoVersion()}
	if f.untested != nil && s.cfg.ForkserverAnyGo {
		s.cfg.Logger.Warn("forkspawn: children are forked in spite of the Go version",
			"reason", f.untested)
		f.untested = nil
	}
	cmd := s.cfg.Command
	cmd.Sys = nil // of the children, which are executed
	f.t = template.New(template.Config{
		Command: cmd.internal(),
		WarmUp:  s.cfg.WarmUp, WarmUpTimeout: s.cfg.WarmUpTimeout,
		WaitForDebugger: s.cfg.WaitForDebugger,
		Stdout:          templateStream(s.cfg.Stdout), Stderr: templateStream(s.cfg.Stderr),
		Logger:  s.cfg.Logger,
		Context: s.ctx, Peers: s.peers, Addr: s.addr, Reaper: s.reaper, Reaps: &s.reaps,
		Start: f.start,
		OnThread: func(do func()) {
			s.thread.Do(context.Background(), "", "", func() error { do(); return nil }, func() {})
		},
	})
	return f
}

// start starts a template.
func (f *forkserver) start(attr *osproc.Attr) (*osproc.Process, error) {
	p, err := f.s.onThread(f.s.ctx, attr.Path, "", func() (Process, error) {
		p, err := osproc.Start(f.s.ctx, attr)
		if err != nil {
			return nil, err
		}
		return osProcess{p}, nil
	})
	if err != nil {
		return nil, err
	}
	return p.(osProcess).Process, nil
}

// serves reports whether the children of a command are forked.
func (f *forkserver) serves(cmd *Command) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	own := &f.s.cfg.Command
	pairs := f.s.addr.Scheme == transport.SchemeUDS
	files := len(cmd.Files) > 0 || cmd.Connections || cmd.Releasable
	return f.refused == nil && (pairs || !files) &&
		cmd.Launcher == nil &&
		!cmd.NewSession && !cmd.TicketOnStdin && cmd.Sys == nil && cmd.Path == own.Path &&
		slices.Equal(cmd.Args, own.Args)
}

// ready reports whether the children of a command are forked. If they are, it
// waits until there is a template.
func (f *forkserver) ready(ctx context.Context, cmd *Command) (bool, error) {
	if !f.serves(cmd) {
		return false, nil
	}
	err := f.untested
	if err == nil {
		err = f.t.Ready(ctx)
	}
	err = f.publicError(err)
	if err != nil && f.fallBack(err) {
		return false, nil
	}
	return true, err
}

// fallBack reports whether children are executed because of err. It logs err
// once.
func (f *forkserver) fallBack(err error) bool {
	if !f.s.cfg.ForkserverFallback || !errors.Is(err, ErrMethodUnavailable) {
		return false
	}
	f.mu.Lock()
	first := f.refused == nil
	f.refused = err
	f.mu.Unlock()
	if first {
		f.s.cfg.Logger.Warn("forkspawn: children are executed, as they cannot be forked", "error",
			err)
	}
	return true
}

// fork has a child forked; see template.Forkserver.Fork.
func (f *forkserver) fork(
	ctx context.Context, attr *ProcessAttr, serve func(message, control net.Conn),
) (Process, error) {
	if err := attr.Command.checkFiles(); err != nil {
		return nil, err
	}
	p, err := f.t.Fork(ctx, attr.internal(), serve)
	if err == nil && attr.leash {
		if err = p.Leash(); err != nil {
			p.SignalGroup(sigkill)
			p.Wait()
			f.t.Reaped(p)
		}
	}
	if err != nil {
		return nil, f.publicError(err)
	}
	return osProcess{p}, nil
}

// publicError makes an error of package template one of this package.
func (f *forkserver) publicError(err error) error {
	var refusal *template.Refusal
	var failure *template.Error
	switch {
	case err == nil:
		return nil
	case f.s.ctx.Err() != nil:
		return ErrSpawnerClosed
	case errors.As(err, &refusal):
		unavailable := wait.Both(fmt.Errorf("%w: %s", ErrMethodUnavailable, refusal.Reason),
			errors.ErrUnsupported)
		return badMethod(MethodForkserver, unavailable, cmp.Or(refusal.Remedy, useExec))
	case errors.As(err, &failure):
		return &ExitError{
			Name: templateName, PID: failure.PID,
			Status: ExitStatus{failure.Status}, Stderr: failure.Stderr,
			err: publicError(failure.Err), template: true,
		}
	}
	return publicError(err)
}

// started notes a process that was started on the Spawner's thread. It is called
// there.
func (f *forkserver) started(p Process) {
	if own, ok := p.(osProcess); ok && f != nil {
		f.t.Started(own.Process)
	}
}

// pid returns the process id of the template, or 0.
func (f *forkserver) pid() int {
	if f == nil {
		return 0
	}
	return f.t.PID()
}

// reaped forgets a process.
func (f *forkserver) reaped(p Process) {
	if own, ok := p.(osProcess); ok && f != nil {
		f.t.Reaped(own.Process)
	}
}

// close ends the template. The children that it has forked live on.
func (f *forkserver) close() {
	if f != nil {
		f.t.Close()
	}
}

// wait waits until no template is being started. Spawner.reaps counts the ends
// of templates.
func (f *forkserver) wait() {
	if f != nil {
		f.t.Wait()
	}
}

// serveAsTemplate makes this process a template with the warm-up of a name. It
// returns in each child that the template forks, with the ticket and the way to
// join.
func serveAsTemplate(name string) (ticket handshake.Ticket, how joining, err error) {
	warmUp, err := warmUpOf(name)
	child, err := template.Serve(template.Program{WarmUp: warmUp, Err: err, Join: rehearseJoin})
	if err != nil {
		return ticket, how, fmt.Errorf("forkspawn: %w", err)
	}
	how = joining{init: child.Init, joined: child.Complete}
	if child.Pair.Message != nil {
		how.over(child.Pair)
	}
	hooks := afterForks()
	if len(hooks) > 0 {
		child.Complete()
		how.joined = nil
	}
	for _, f := range hooks {
		if err := f(); err != nil {
			return ticket, how, fmt.Errorf("forkspawn: after the fork: %w", err)
		}
	}
	return child.Ticket, how, nil
}

// over sets the connections that the child was given.
func (how *joining) over(pair template.Pair) {
	how.dial = func(context.Context) (net.Conn, error) {
		conn, err := pair.Message()
		return conn, explainScarcity(err)
	}
	how.control = func() (net.Conn, error) {
		conn, err := pair.Control()
		return conn, explainScarcity(err)
	}
}

// rehearseJoin joins the parent of a template, and leaves it.
func rehearseJoin(ctx context.Context, ticket handshake.Ticket, pair template.Pair) error {
	how := joining{cfg: JoinConfig{OnParentGone: func() {}}}
	how.over(pair)
	p, err := join(ctx, ticket, how)
	if err != nil {
		return err
	}
	return p.Close(0, "")
}
