package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/internal/monotime"
)

// Run is an entry: a function for a child to run. ctx ends when the parent asks
// the child to stop, with a [*CancelError] as its cause. It also ends when the
// parent is gone ([ErrParentGone]) or the spec's deadline has passed.
//
// After Run has returned nil, the process exits with status 0. After any other
// error it writes the error to stderr and exits with 1. An error that
// matches context.Canceled or io.EOF counts as nil if the parent has asked the
// child to stop. A panic is not recovered: it writes a trace to stderr, and the
// status is 2.
type Run func(ctx context.Context, parent *Parent) error

// Exit codes of a child, set by this package.
const (
	exitFailure = 1   // the entry returned an error, or the process could not join
	exitOrphan  = 125 // the parent was gone and the entry did not return within orphanGrace
)

// registered is an entry of this program.
type registered struct {
	run        Run
	readyLater bool
}

var registry = struct {
	sync.Mutex // guards entries
	entries    map[string]registered
}{entries: make(map[string]registered)}

// Register adds an entry to this program. The parent and the child both call it
// before [Init], in main or in an init function. It panics if name is empty or
// already registered, or run is nil.
//
// The program need not be the parent's: a program of its own can have entries, too,
// and its parent names one in the spec. With [MethodInProcess] a test runs the same
// function in its own process.
func Register(name string, run Run) { register(name, registered{run, false}) }

// RegisterReadyLater is Register for an entry that prepares itself: the child is
// ready when the entry calls [Parent.Ready].
func RegisterReadyLater(name string, run Run) { register(name, registered{run, true}) }

func register(name string, e registered) {
	registry.Lock()
	defer registry.Unlock()
	switch {
	case name == "":
		panic("forkspawn: Register with an empty name")
	case e.run == nil:
		panic("forkspawn: Register of " + name + " with a nil function")
	case registry.entries[name].run != nil:
		panic("forkspawn: Register of " + name + " a second time")
	}
	registry.entries[name] = e
}

// entry returns the entry of that name.
func entry(name string) (registered, error) {
	registry.Lock()
	defer registry.Unlock()
	if e := registry.entries[name]; e.run != nil {
		return e, nil
	}
	return registered{}, fmt.Errorf("%w %q; %s", handshake.ErrUnknownEntry, name,
		listed(registry.entries))
}

// listed lists the names of a registry, for an error.
func listed[T any](registry map[string]T) string {
	if len(registry) == 0 {
		return "this program has none"
	}
	return "this program has: " + strings.Join(slices.Sorted(maps.Keys(registry)), ", ")
}

// ErrInitNotCalled is New's error in a process that was itself spawned and has
// called neither Init nor Join.
var ErrInitNotCalled = errors.New(
	"this process was itself spawned and has called neither Init nor Join; call forkspawn.Init first thing in main")

// ticketUntaken reports whether this process was spawned, and has called neither
// Init nor Join.
func ticketUntaken() bool {
	_, ticket := os.LookupEnv(handshake.TicketEnv)
	_, isTemplate := os.LookupEnv(template.Env)
	_, supervises := os.LookupEnv(link.SupervisorEnv)
	return ticket || isTemplate || supervises
}

// Init returns at once in a process that was not spawned. In a child it joins the
// parent, runs the entry of the spec, and exits. Call it first thing in main,
// after [Register], because all code before it runs in every child.
func Init() {
	main := monotime.Now()
	how := joining{init: monotime.Init}
	ticket, ok, err := takeTicket()
	warmUp, isTemplate := template.TakeOrder()
	switch {
	case isTemplate:
		ticket, how, err = serveAsTemplate(warmUp) // returns in each forked child
		main = monotime.Now()
	case ok && err != nil:
		err = prefixed("join", err)
	case ok:
		osproc.NameProcess()
	default:
		return
	}
	if err == nil {
		how.main, how.files = main, takeFiles()
		if how.dial == nil {
			how.dial = dialer(ticket.Addr)
		}
		err = runChild(ticket, how)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailure)
	}
	os.Exit(0)
}

// runChild joins the parent and runs the entry.
func runChild(ticket handshake.Ticket, how joining) error {
	parent, run, err := joinEntry(context.Background(), ticket, how)
	var asked *CancelError
	switch {
	case errors.As(err, &asked): // an unused spare at the end of its parent
		return nil
	case err != nil:
		return err
	}
	ownParent.Store(parent)
	useLogLevel(parent.spec.LogLevel)
	return parent.live(run)
}

// joinEntry joins the parent and returns the spec's entry.
func joinEntry(ctx context.Context, ticket handshake.Ticket, how joining) (*Parent, Run, error) {
	var run Run
	how.check = func(p *Parent) error {
		e, err := entry(p.spec.Entry)
		run, p.cfg.ReadyLater = e.run, e.readyLater
		return err
	}
	parent, err := join(ctx, ticket, how)
	return parent, run, err
}

// live runs the entry and then closes the connections with its result.
func (p *Parent) live(run Run) error { return p.conclude(run(p.Context(), p)) }

// Exit ends this process as [Init] does after a [Run] with this error. It is for
// programs that call [Join]:
//
//	parent.Exit(call.Serve(parent.Context(), parent, mux))
func (p *Parent) Exit(err error) {
	if err := p.conclude(err); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailure)
	}
	os.Exit(0)
}

// conclude closes the connections with the result of the work. It returns nil if the
// process should exit with status 0.
func (p *Parent) conclude(err error) error {
	p = p.latest()
	var asked *CancelError
	var exit *ExitError // from a child of this child; it can match io.EOF, too
	if errors.As(context.Cause(p.Context()), &asked) &&
		(errors.Is(err, context.Canceled) || errors.Is(err, io.EOF)) && !errors.As(err, &exit) {
		err = nil
	}
	if err != nil {
		p.Close(exitFailure, err.Error())
		return fmt.Errorf("%s: %w", p.spec.Name, err)
	}
	p.Close(0, "")
	return nil
}

// useLogLevel sets the level of the default slog logger of this process. If the
// program has replaced that logger, useLogLevel does nothing. The call of
// slog.SetLogLoggerLevel would then change the level of messages from package
// log, and the new logger could drop them.
func useLogLevel(level slog.Level) {
	original := fmt.Sprintf("%T", slog.Default().Handler()) == "*slog.defaultHandler"
	if level != slog.LevelInfo && original {
		slog.SetLogLoggerLevel(level)
	}
}
