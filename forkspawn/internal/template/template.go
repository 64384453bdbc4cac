// Package template forks the children of a Spawner, without exec, from a
// template: a process of the same program that has done its warm-up once and
// waits for requests.
//
// Three processes run code of this package. The name of a file begins with the
// process:
//
//	parent    the Spawner's process: it starts the template and asks it for children
//	template  the template
//	child     a child, from the moment after the fork
//
// Both parent and template run wire_linux.go, their messages, and
// rehearse_linux.go. Package refork does the fork itself.
package template

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/reaper"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
)

// Env is the environment variable that makes a process a template. It has an id
// and the name of a warm-up.
const Env = "SPAWNWIRE_TEMPLATE"

// Config has the settings of a Forkserver.
type Config struct {
	Command       osproc.Command // the program of the template
	WarmUp        string         // the name of the template's warm-up, or ""
	WarmUpTimeout time.Duration  // bounds the start of a template
	// WaitForDebugger suspends WarmUpTimeout while a debugger is attached to
	// the template.
	WaitForDebugger bool
	Stdout, Stderr  capture.Stream // of the template
	Logger          *slog.Logger

	Context context.Context     // ends when the Spawner is closed
	Peers   *handshake.Listener // where the template joins once, as its children do
	Addr    transport.Addr      // of Peers
	Reaper  *reaper.Reaper      // or nil
	Reaps   *sync.WaitGroup     // counts the templates that have not been reaped
	// Start starts the template on the Spawner's thread, and calls
	// Forkserver.Started there.
	Start func(*osproc.Attr) (*osproc.Process, error)
	// OnThread calls f on the Spawner's thread, so no process is being started
	// meanwhile.
	OnThread func(f func())
}

// ErrClosed is the error of a closed Forkserver.
var ErrClosed = errors.New("the forkserver is closed")

// Error says why a template did not fork a child.
type Error struct {
	PID    int           // of the template
	Status osproc.Status // how it ended; unknown when it lives, or was killed by its parent
	Stderr string        // the end of its captured stderr
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("template (pid %d): %v", e.PID, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// Refusal says why this program or machine cannot fork without exec.
type Refusal struct {
	Reason string
	Remedy string // or ""
}

func (e *Refusal) Error() string { return e.Reason }

// Program is what a program provides for its template.
type Program struct {
	WarmUp func() error
	Err    error // the reason if there is no WarmUp; the template reports it and exits
	// Join joins the parent that expects the ticket over the given connections,
	// and leaves it again. The template calls it before it is ready.
	Join func(ctx context.Context, ticket handshake.Ticket, pair Pair) error
}

// Pair makes the two connections that a child has from its start, each once.
// After an error a function can be called again.
type Pair struct{ Message, Control func() (net.Conn, error) }

// Child is this process, just forked by a template.
type Child struct {
	Init   int64 // when it began; see package monotime
	Ticket handshake.Ticket
	Pair   Pair // its fields are nil when the child has to dial
	// Complete ends the time in which the child has one running thread and
	// GOMAXPROCS 1, and closes what it has of its template. It is called once:
	// when the parent knows that the child is ready, or before AfterFork.
	Complete func()
}

// FilesEnv is the environment variable with the names and the numbers of a process's
// files.
const FilesEnv = "SPAWNWIRE_FILES"

// TakeOrder reports whether this process is to be a template, and returns the
// name of its warm-up. It unsets the environment variable.
func TakeOrder() (warmUp string, ok bool) {
	order, ok := os.LookupEnv(Env)
	os.Unsetenv(Env)
	_, warmUp, _ = strings.Cut(order, " ") // after the id
	return warmUp, ok
}
