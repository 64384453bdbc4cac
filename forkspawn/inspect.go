package forkspawn

// Inspections: what this process knows of its children, for package live and for the
// parent of this process. Nothing here runs while nobody asks.

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/inspect"
	"github.com/spawnwire/spawnwire/internal/progname"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// spawners has the Spawners of this process from New to the end of Close.
var spawners = struct {
	sync.Mutex // guards list
	list       []*Spawner
}{}

func noteSpawner(s *Spawner) {
	spawners.Lock()
	defer spawners.Unlock()
	spawners.list = append(spawners.list, s)
}

func forgetSpawner(s *Spawner) {
	spawners.Lock()
	defer spawners.Unlock()
	spawners.list = slices.DeleteFunc(spawners.list, func(o *Spawner) bool { return o == s })
}

// Internal returns methods for this module only. See package internal/access.
func (s *Spawner) Internal(access.Key) spawnerInternals { return spawnerInternals{s} }

// spawnerInternals are the methods of a Spawner for package live.
type spawnerInternals struct{ s *Spawner }

// Inspect asks this process and all below the Spawner.
func (i spawnerInternals) Inspect(ctx context.Context, q frame.Inspect) *inspect.Report {
	return inspect.Collect(ctx, q, view(ownParent.Load(), i.s))
}

// Ask asks one process: q.Path are the ids on the way to it.
func (i spawnerInternals) Ask(ctx context.Context, q frame.Inspect) ([]byte, error) {
	return inspect.Answer(ctx, q, view(ownParent.Load(), i.s))
}

// Child returns the child with an id, or nil. again reports whether its Group can
// restart it.
func (i spawnerInternals) Child(id string) (c *Child, again bool) {
	for _, c := range i.s.Children() {
		if c.id == id {
			return c, c.supervised.Load()
		}
	}
	return nil, false
}

// Restart ends a child, and its Group starts it again without a pause.
func (i spawnerInternals) Restart(ctx context.Context, c *Child) error {
	if !c.supervised.Load() {
		return errors.New("forkspawn: restart: the child was not started by Group.Go")
	}
	c.again.Store(true)
	_, err := c.Stop(ctx)
	return err
}

// answer answers a question of the parent.
func (p *Parent) answer(ctx context.Context, q frame.Inspect) ([]byte, error) {
	spawners.Lock()
	list := slices.Clone(spawners.list)
	spawners.Unlock()
	return inspect.Answer(ctx, q, view(p, list...))
}

// inspected returns the Server for the parent's questions on the control connection.
func (p *Parent) inspected(control *transport.Channel) *inspect.Server {
	return &inspect.Server{
		Context: p.open, Go: p.watch.Go, Answer: p.answer,
		Write: func(ctx context.Context, f frame.Frame) error {
			return control.Frames(access.Key{}).Write(ctx, f)
		},
	}
}

// view returns what this process knows of itself and the children of some Spawners. p
// is its parent, or nil.
func view(p *Parent, list ...*Spawner) inspect.View {
	var v inspect.View
	id := ""
	if p != nil {
		id = p.id
	}
	v.Self = inspect.Self(id, progname.Name())
	calls := inspect.OpenCalls()
	if p != nil {
		delete(calls, p.joined.Channel) // the parent reports them
	}
	for _, s := range list {
		v.Children = append(v.Children, s.view(id, calls)...)
		if s.spares != nil {
			v.Self.Spares += len(s.spares.list())
			v.Self.SparesWanted += s.spares.want
		}
	}
	for _, others := range calls { // such as those with siblings
		v.Self.Calls = append(v.Self.Calls, others...)
	}
	slices.SortStableFunc(v.Children, func(a, b inspect.Child) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.PID, b.PID))
	})
	return v
}

// view returns the Spawner's processes. It takes their calls out of calls.
func (s *Spawner) view(parent string, calls map[any][]inspect.Call) (all []inspect.Child) {
	idle := s.spares.list()
	s.mu.Lock()
	var ready, others []*Child
	for c := range s.processes {
		if _, ok := s.children[c]; !ok && !slices.Contains(idle, c) {
			others = append(others, c)
		}
	}
	lives := make(map[*Child]life, len(s.children))
	for c := range s.children {
		ready = append(ready, c)
		if c.life != nil {
			lives[c] = *c.life
		}
	}
	pauses := slices.Clone(s.pauses)
	ended := s.ended
	s.mu.Unlock()
	add := func(c inspect.Child) {
		c.Parent = parent
		all = append(all, c)
	}
	for _, c := range ready {
		v := c.view(lives[c])
		if ch := c.Channel(); ch != nil {
			v.Calls = calls[ch]
			delete(calls, ch)
		}
		add(v)
	}
	for _, c := range idle {
		add(c.unready("spare", "waits for its spec"))
	}
	for _, c := range others {
		v := c.unready("starting", "is not ready")
		if c.stopping.Load() {
			v.State = "stopping"
		} else if c.expected != nil {
			v.Phase = string(c.expected.Phase())
		}
		add(v)
	}
	for _, l := range pauses {
		add(inspect.Child{Process: inspect.Process{Name: l.name, State: "restarting",
			Silent: "waits for its restart", Restarts: l.restarts, Restarted: l.reason}})
	}
	for _, c := range ended {
		if c != nil && !slices.Contains(ready, c) {
			add(c.unready("ended", "has ended"))
		}
	}
	if pid := s.forks.pid(); pid > 0 {
		v := inspect.Child{Process: inspect.Process{Name: templateName, PID: pid,
			State: templateName, Silent: "forks children"}}
		v.Usage()
		add(v)
	}
	return all
}

// view returns the view of a child that is or was ready.
func (c *Child) view(l life) inspect.Child {
	b := c.boot
	v := inspect.Child{Process: inspect.Process{
		ID: c.id, Name: c.spec.Name, PID: c.PID(), State: "ready", Entry: c.spec.Entry,
		Method: c.spec.Method, Uptime: time.Since(c.began),
		Boot: &inspect.Boot{Launch: b.Launch, Runtime: b.Runtime, Init: b.Init,
			Connect: b.Connect, Hello: b.Hello, Ready: b.Ready, Total: b.Total, Spare: b.Spare},
		Restarts: l.restarts, Restarted: l.reason, Stop: true, Restart: c.supervised.Load(),
	}}
	_, here := c.proc.(osProcess)
	switch {
	case wait.Closed(c.exited):
		c.noteEnd(&v.Process)
		return v
	case c.stopping.Load():
		v.State = "stopping"
	}
	switch {
	case here && v.Usage():
		v.State, v.Silent = "stopped", "is stopped (SIGSTOP)"
	case c.peer == nil:
		v.Silent = "does not speak the protocol"
	case c.s.local == nil: // otherwise it is in this process
		v.Ask = c.peer.Internal(access.Key{}).Inspect
	}
	return v
}

// unready returns the view of a child without an owner. Its spec may not be read.
func (c *Child) unready(state, why string) inspect.Child {
	v := inspect.Child{Process: inspect.Process{ID: c.id, Name: spareName, PID: c.PID(),
		State: state, Silent: why, Uptime: time.Since(c.began)}}
	if c.intro == nil || wait.Closed(c.intro.done) {
		v.Name, v.Entry, v.Method = c.spec.Name, c.spec.Entry, c.spec.Method
	}
	if _, here := c.proc.(osProcess); wait.Closed(c.exited) {
		c.noteEnd(&v.Process)
	} else if here {
		v.Usage()
	}
	return v
}

// noteEnd fills in how a process has ended.
func (c *Child) noteEnd(v *inspect.Process) {
	v.State, v.Silent, v.Uptime = "ended", "has ended", 0
	v.Exit = c.status.String()
	if silence := c.silence(); silence != nil {
		v.Exit = silence.Error()
	}
	v.Stderr = inspect.Clean(c.StderrTail())
}

// life has the earlier lives of a child, if its Group has restarted it.
// Spawner.mu guards it.
type life struct {
	name     string
	restarts int
	reason   string // of the last restart
}

// pauseLife records that a child waits for its restart.
func (s *Spawner) pauseLife(l *life, name string, cause error) *life {
	if l == nil {
		l = &life{name: name}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.restarts++
	l.reason = "it had ended with success"
	if cause != nil {
		l.reason = inspect.Clean(unprefixed(cause))
	}
	s.pauses = append(s.pauses, l)
	return l
}

// resumeLife ends the wait.
func (s *Spawner) resumeLife(l *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pauses = slices.DeleteFunc(s.pauses, func(o *life) bool { return o == l })
}

// noteLife makes l known as the earlier lives of c.
func (s *Spawner) noteLife(c *Child, l *life) {
	c.supervised.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.life = l
}

// noteProcess records a process from its start on. forgetProcess does so at its end, and
// keeps the last ones that have ended badly.
func (s *Spawner) noteProcess(c *Child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes[c] = struct{}{}
}

func (s *Spawner) forgetProcess(c *Child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.processes, c)
	if !c.isReleased() && !c.status.Success() {
		copy(s.ended[1:], s.ended[:])
		s.ended[0] = c
	}
}
