package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
)

// Run is what a child runs: an entry. ctx ends when the parent asks the child to stop (its cause is a
// [*CancelError]), when the parent is gone ([ErrParentGone]) or when the spec's deadline passes.
//
// When Run returns nil, or, after the parent has asked it to stop, an error that matches context.Canceled
// or io.EOF, the process exits with status 0. For any other error it writes that to stderr and exits with 1. A panic is Go's own: a trace on stderr and
// status 2.
type Run func(ctx context.Context, parent *Parent) error

// Exit codes of a spawned process of which this package decides.
const (
	ExitFailure = 1   // the entry returned an error, or the process could not join
	ExitOrphan  = 125 // the parent is gone and the entry did not return within OrphanGrace
)

var registry = struct {
	sync.Mutex // guards entries
	entries    map[string]Run
}{entries: make(map[string]Run)}

// Register makes run the entry of that name: what a child of this program can be asked to run. It is
// called before Init, in parent and child alike, in main or in an init function. It panics when the
// name is empty or taken, or run is nil.
func Register(name string, run Run) {
	registry.Lock()
	defer registry.Unlock()
	switch {
	case name == "":
		panic("forkspawn: Register with an empty name")
	case run == nil:
		panic("forkspawn: Register of " + name + " with a nil function")
	case registry.entries[name] != nil:
		panic("forkspawn: Register of " + name + " a second time")
	}
	registry.entries[name] = run
}

func entry(name string) (Run, error) {
	registry.Lock()
	defer registry.Unlock()
	if run := registry.entries[name]; run != nil {
		return run, nil
	}
	names := make([]string, 0, len(registry.entries))
	for n := range registry.entries {
		names = append(names, n)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("%w %q; this program has: %s", handshake.ErrUnknownEntry, name, strings.Join(names, ", "))
}

// ErrInitNotCalled: this process was spawned, and has called neither Init nor Join.
var ErrInitNotCalled = errors.New("forkspawn: this process was itself spawned and has called neither Init nor Join; call forkspawn.Init first thing in main")

// ticketUntaken tells whether this process has a parent whom it has not answered.
func ticketUntaken() bool {
	_, ticket := os.LookupEnv(handshake.TicketEnv)
	_, template := os.LookupEnv(templateEnv)
	return ticket || template
}

// Init makes this process a child if it was spawned as one: it joins its parent, runs the entry that
// the parent asked for, and exits. Else it returns at once. Call it first thing in main, after
// Register: whatever runs before it runs in every child.
func Init() {
	main := monotime.Now()
	how := joining{init: monotime.Init}
	ticket, ok, err := handshake.TakeTicket()
	warmUp, template := takeTemplateOrder()
	switch {
	case template:
		ticket, how, err = serveAsTemplate(warmUp) // returns in each child
		main = monotime.Now()
	case ok:
		nameProcess()
	default:
		return
	}
	if err == nil {
		how.main = main
		if how.dial == nil {
			how.dial = dialer(ticket.Addr)
		}
		err = runChild(ticket, how)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(ExitFailure)
	}
	os.Exit(0)
}

// runChild is the life of a child of this program.
func runChild(ticket handshake.Ticket, how joining) error {
	parent, run, err := joinEntry(context.Background(), ticket, how)
	var asked *CancelError
	switch {
	case errors.As(err, &asked): // a spare that is not needed
		return nil
	case err != nil:
		return err
	}
	ownParent.Store(parent)
	return parent.live(run)
}

// joinEntry joins as the entry that the spec names.
func joinEntry(ctx context.Context, ticket handshake.Ticket, how joining) (*Parent, Run, error) {
	var run Run
	how.check = func(p *Parent) (err error) {
		run, err = entry(p.Spec.Entry)
		return err
	}
	parent, err := join(ctx, ticket, how)
	return parent, run, err
}

// live runs the entry and says goodbye as it ended.
func (p *Parent) live(run Run) error {
	err := run(p.Context(), p)
	var asked *CancelError
	var exit *ExitError // of a child of its own, which may match io.EOF too
	if errors.As(context.Cause(p.Context()), &asked) && (errors.Is(err, context.Canceled) || errors.Is(err, io.EOF)) && !errors.As(err, &exit) {
		err = nil // it did as it was asked
	}
	if err != nil {
		p.Close(ExitFailure, err.Error())
		return fmt.Errorf("%s: %w", p.Spec.Name, err)
	}
	p.Close(0, "")
	return nil
}
