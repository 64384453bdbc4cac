// Package inspect answers questions about running processes: what children a process
// has, where its goroutines are, and its profiles. A parent asks its children, and they
// ask theirs. docs/PROTOCOL-inspect.md has the frames and the content of the answers.
package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/internal/values"
)

// The questions of a parent.
const (
	Tree    = "tree"
	Stacks  = "stacks"
	Profile = "profile"
	// Profiles is one profile of a process and all below it.
	Profiles = "profiles"
)

// Limits of answers, in bytes.
const (
	maxAnswer  = 16 << 20
	maxProfile = 64 << 20
	// MaxText is the most of a reason or of an output in a Process.
	MaxText = 1 << 10
)

// Report is the answer of a process for itself and for all below it.
type Report struct {
	// Processes has each process once, and each before those below it. The first is
	// the one that answers.
	Processes []Process `json:"processes,omitempty"`
	// Stacks has the goroutines of all processes, and Asked is their number.
	Stacks []Stack  `json:"stacks,omitempty"`
	Asked  int      `json:"asked,omitempty"`
	Silent []Silent `json:"silent,omitempty"`
}

// Process is a process in the tree. Most fields are what its parent knows.
type Process struct {
	ID     string `json:"id,omitempty"`     // of the child; empty for the root
	Parent string `json:"parent,omitempty"` // the ID of its parent
	Depth  int    `json:"depth" cbor:"-"`   // below the root; a Snapshot has it
	Name   string `json:"name"`
	PID    int    `json:"pid,omitempty"` // 0 for an entry in a goroutine
	State  string `json:"state"`
	Silent string `json:"silent,omitempty"` // why it has not answered
	Entry  string `json:"entry,omitempty"`
	Method string `json:"method,omitempty"`
	Phase  string `json:"phase,omitempty"` // of a child that starts

	Uptime  time.Duration `json:"uptime_ns,omitempty"`
	Boot    *Boot         `json:"boot,omitempty"`
	CPU     time.Duration `json:"cpu_ns,omitempty"`
	Memory  int64         `json:"memory,omitempty"` // resident, in bytes
	Threads int           `json:"threads,omitempty"`

	Restarts  int    `json:"restarts,omitempty"`
	Restarted string `json:"restarted,omitempty"` // the reason of the last restart
	Exit      string `json:"exit,omitempty"`
	Stderr    string `json:"stderr,omitempty"` // its end, if the process has ended

	Calls []Call `json:"calls,omitempty"` // of the parent and the child
	// Stop and Restart report whether the root can do so.
	Stop    bool `json:"stop,omitempty"`
	Restart bool `json:"restart,omitempty"`

	ParentAt int `json:"-"` // the index of the parent in a Snapshot

	// The process itself knows these.
	Goroutines   int `json:"goroutines,omitempty"`
	Spares       int `json:"spares,omitempty"` // that wait for a spec
	SparesWanted int `json:"spares_wanted,omitempty"`
}

// Boot has the times of a start; see forkspawn.BootTimes.
type Boot struct {
	Launch  time.Duration `json:"launch_ns,omitempty"`
	Runtime time.Duration `json:"runtime_ns,omitempty"`
	Init    time.Duration `json:"init_ns,omitempty"`
	Connect time.Duration `json:"connect_ns,omitempty"`
	Hello   time.Duration `json:"hello_ns,omitempty"`
	Ready   time.Duration `json:"ready_ns,omitempty"`
	Total   time.Duration `json:"total_ns,omitempty"`
	Spare   bool          `json:"spare,omitempty"`
}

// Silent is a process that has not answered.
type Silent struct {
	Name string `json:"name"`
	ID   string `json:"id,omitempty"`
	PID  int    `json:"pid,omitempty"`
	Why  string `json:"why"`
}

// Child is a child as its parent sees it.
type Child struct {
	Process
	// Ask asks the process. It is nil if there is nothing to ask. Then Silent says why,
	// or is empty if the answers for this process are those of its parent.
	Ask func(ctx context.Context, q frame.Inspect, limit int) ([]byte, error)
}

// View is what a process knows of itself and its children.
type View struct {
	Self     Process
	Children []Child // those of the same process, in the order of the answer
}

// Each process gives its children a part of its own time, and waits a little longer
// for their answers. So the answer of a process with a silent descendant is in time.
func childBound(d time.Duration) time.Duration { return d / 100 * 85 }
func waitBound(d time.Duration) time.Duration  { return d / 100 * 93 }

// Collect answers a question about all processes. It asks all children at once.
func Collect(ctx context.Context, q frame.Inspect, v View) *Report {
	ctx, cancel := context.WithTimeout(ctx, waitBound(q.Bound))
	defer cancel()
	reports := make([]*Report, len(v.Children))
	below := frame.Inspect{What: q.What, Bound: childBound(q.Bound)}
	var asks sync.WaitGroup
	for i := range v.Children {
		if v.Children[i].Ask != nil {
			asks.Go(func() { reports[i] = v.Children[i].report(ctx, below) })
		}
	}
	r := &Report{Processes: []Process{v.Self}, Asked: 1}
	if q.What == Stacks {
		r.Processes, r.Stacks = nil, ownStacks()
	}
	asks.Wait()
	for i, c := range v.Children {
		r.add(q.What, c.Process, reports[i])
	}
	if q.What == Stacks {
		r.Stacks = merge(r.Stacks)
	}
	return r
}

// report asks the child. If it does not answer, its Silent becomes the reason.
func (c *Child) report(ctx context.Context, q frame.Inspect) *Report {
	answer, err := c.Ask(ctx, q, maxAnswer)
	r := new(Report)
	if err == nil {
		err = values.Decode(answer, r)
	}
	if err == nil && q.What == Tree && len(r.Processes) == 0 {
		err = errors.New("an empty answer")
	}
	switch {
	case err == nil:
		return r
	case ctx.Err() != nil:
		c.Silent = "no answer in " + q.Bound.Round(time.Millisecond).String()
	default:
		c.Silent = Clean(err.Error())
	}
	return nil
}

// add adds a child with its answer, which may be nil.
func (r *Report) add(what string, p Process, answer *Report) {
	if what == Tree {
		if answer == nil {
			r.Processes = append(r.Processes, p)
			return
		}
		p.learn(&answer.Processes[0])
		r.Processes = append(append(r.Processes, p), below(p.ID, answer.Processes[1:])...)
		return
	}
	if answer == nil {
		if p.Silent != "" {
			r.Silent = append(r.Silent, Silent{p.Name, p.ID, p.PID, p.Silent})
		}
		return
	}
	r.Asked += answer.Asked
	r.Stacks = append(r.Stacks, answer.Stacks...)
	r.Silent = append(r.Silent, answer.Silent...)
}

// below makes sure that a child reports processes below itself only.
func below(id string, all []Process) []Process {
	there := map[string]bool{id: true}
	for i := range all {
		p := &all[i]
		p.Stop, p.Restart = false, false
		if !there[p.Parent] {
			p.Parent = id
		}
		there[p.ID] = true
	}
	return all
}

// learn takes over what the process itself knows.
func (p *Process) learn(own *Process) {
	if p.PID == 0 { // on another machine
		p.PID = own.PID
	}
	if own.Memory > 0 {
		p.CPU, p.Memory, p.Threads = own.CPU, own.Memory, own.Threads
	}
	p.Goroutines, p.Spares, p.SparesWanted = own.Goroutines, own.Spares, own.SparesWanted
	p.Calls = append(p.Calls, own.Calls...)
}

// Answer answers a question of the parent. If it is about a process below, Answer
// forwards it.
func Answer(ctx context.Context, q frame.Inspect, v View) ([]byte, error) {
	switch {
	case len(q.Path) > 0:
		return forward(ctx, q, v.Children)
	case q.What == Profile:
		return TakeProfile(ctx, q)
	case q.What == Profiles:
		return MergeProfiles(collectProfiles(ctx, q, v))
	case q.What != Tree && q.What != Stacks:
		return nil, fmt.Errorf("unsupported question %q", q.What)
	}
	var b bytes.Buffer
	err := values.Encode(&b, Collect(ctx, q, v))
	return b.Bytes(), err
}

func forward(ctx context.Context, q frame.Inspect, children []Child) ([]byte, error) {
	for _, c := range children {
		if c.ID != q.Path[0] {
			continue
		}
		if c.Ask == nil {
			return nil, fmt.Errorf("%s: %s", c.Name, c.Silent)
		}
		ctx, cancel := context.WithTimeout(ctx, waitBound(q.Bound)+q.Time)
		defer cancel()
		q.Path, q.Bound = q.Path[1:], childBound(q.Bound)
		return c.Ask(ctx, q, maxProfile)
	}
	return nil, fmt.Errorf("no child %s", q.Path[0])
}

// Profiled is the answer of a process to a question for Profiles. Its parent labels the
// samples, because it knows the child's name. So the process that answers does not label
// its own ones, unless it is the root.
type Profiled struct {
	Process
	Data []byte
	Err  error
	Own  bool // of a child that answers
}

// collectProfiles takes the profiles of all processes at the same time. The first one is
// this process's own.
func collectProfiles(ctx context.Context, q frame.Inspect, v View) []Profiled {
	ctx, cancel := context.WithTimeout(ctx, waitBound(q.Bound)+q.Time)
	defer cancel()
	all := make([]Profiled, 1+len(v.Children))
	below := q
	below.Bound = childBound(q.Bound)
	var asks sync.WaitGroup
	for i, c := range v.Children {
		p := &all[1+i]
		p.Process = c.Process
		switch {
		case c.Ask != nil:
			asks.Go(func() { p.Data, p.Err = c.Ask(ctx, below, maxProfile) })
		case c.Silent != "":
			p.Err = errors.New(c.Silent)
		}
	}
	all[0] = Profiled{Process: v.Self, Own: v.Self.ID != ""}
	all[0].Data, all[0].Err = TakeProfile(ctx, q)
	asks.Wait()
	return all
}

// MergeProfiles makes one profile of several. Package live sets it.
var MergeProfiles = func([]Profiled) ([]byte, error) { return nil, errNotLive }

var errNotLive = errors.New("its program does not import package live")

// TakeProfile takes a profile of this process. Package live sets it, so that only
// programs that import it link the profiler.
var TakeProfile = func(context.Context, frame.Inspect) ([]byte, error) {
	return nil, errNotLive
}

// Clean returns the end of a text of another program, for CBOR and for people.
func Clean(s string) string {
	return strings.ToValidUTF8(s[max(0, len(s)-MaxText):], "\uFFFD")
}

// Self returns what this process knows of itself.
func Self(id, name string) Process {
	p := Process{ID: id, Name: name, PID: os.Getpid(), State: "running",
		Goroutines: runtime.NumGoroutine()}
	if now := monotime.Now(); now > 0 {
		p.Uptime = time.Duration(now - monotime.Init)
	}
	p.Usage()
	return p
}
