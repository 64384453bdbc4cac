package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// templateEnv tells a process that it is to be a template, and has an id and the name of its warm-up.
const templateEnv = "SPAWNWIRE_TEMPLATE"

// templates has the functions that a template can run, by name, and those that each of its children runs.
var templates = struct {
	sync.Mutex // guards what follows
	warmUps    map[string]func() error
	afterFork  []func() error
}{warmUps: make(map[string]func() error)}

// RegisterWarmUp makes warmUp the one of that name, for Config.WarmUp: what a template of MethodForkserver does once so
// that its children need not. It is called before Init, in parent and child alike, as Register is. It panics when the
// name is empty or taken, or warmUp is nil.
//
// Goroutines that a warm-up leaves running run in every child too. Files and connections that it leaves open are dead there:
// what is read from them is at its end. Signals that it has asked for, or ignores, do there what they do in a new process.
// An error that it returns, or a panic, is in the [*TemplateError] of the Spawns that waited for it.
//
// A template without such goroutines is stopped while it waits, which makes starts faster: timers that a warm-up leaves
// (time.AfterFunc) can be ten seconds late in it, and run in each child too that is forked before. A warm-up that calls
// signal.Notify leaves a goroutine.
func RegisterWarmUp(name string, warmUp func() error) {
	templates.Lock()
	defer templates.Unlock()
	switch {
	case name == "":
		panic("forkspawn: RegisterWarmUp with an empty name")
	case warmUp == nil:
		panic("forkspawn: RegisterWarmUp of " + name + " with a nil function")
	case templates.warmUps[name] != nil:
		panic("forkspawn: RegisterWarmUp of " + name + " a second time")
	}
	templates.warmUps[name] = warmUp
}

// AfterFork has f called in each child of a template before it joins its parent, in the order of the calls of AfterFork: for
// what must not be the same in two processes, such as random state of the program's own, or must be opened anew. When it
// returns an error the child writes that to stderr and exits with ExitFailure. It is called before Init, or in a warm-up.
func AfterFork(f func() error) {
	if f == nil {
		panic("forkspawn: AfterFork with a nil function")
	}
	templates.Lock()
	defer templates.Unlock()
	templates.afterFork = append(templates.afterFork, f)
}

// takeTemplateOrder tells whether this process is to be a template, and with which warm-up. It does so once.
func takeTemplateOrder() (warmUp string, ok bool) {
	order, ok := os.LookupEnv(templateEnv)
	os.Unsetenv(templateEnv)
	_, warmUp, _ = strings.Cut(order, " ") // after an id
	return warmUp, ok
}

// warmUpOf returns the warm-up of that name; "" is none.
func warmUpOf(name string) (func() error, error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	templates.Lock()
	defer templates.Unlock()
	if f := templates.warmUps[name]; f != nil {
		return f, nil
	}
	names := make([]string, 0, len(templates.warmUps))
	for n := range templates.warmUps {
		names = append(names, n)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("no warm-up %q; this program has: %s", name, strings.Join(names, ", "))
}

// afterForks returns what AfterFork was called with.
func afterForks() []func() error {
	templates.Lock()
	defer templates.Unlock()
	return slices.Clone(templates.afterFork)
}

// TemplateError says why the template of MethodForkserver did not fork a child. It is in the chain of a [*BootError] of phase
// start. The Spawner starts a new template for the next Spawn when this one has ended; children that run are not touched.
type TemplateError struct {
	PID    int        // of the template
	Status ExitStatus // how it ended; unknown when it lives, or was killed by the Spawner
	Stderr string     // the end, at most 4 KiB, of what it wrote to a captured stderr
	Err    error      // the cause
}

// Error returns one line: what happened to the template, and the last line that it wrote to stderr.
func (e *TemplateError) Error() string {
	s := fmt.Sprintf("template (pid %d): %v", e.PID, e.Err)
	if e.Status.Known() {
		s += fmt.Sprintf(": %v", e.Status)
	}
	if line := lastLine(e.Stderr); line != "" {
		s += "; stderr: " + quoted(line)
	}
	return s
}

func (e *TemplateError) Unwrap() error { return e.Err }

var support struct {
	sync.Mutex // guards what follows; held while a template is tried
	known      bool
	err        error
}

// ForkserverSupport tells whether children of this program can be forked here: nil, or a [*MethodError] that says why not and
// what to do. It starts a template without a warm-up, which forks for about half a second to find out, and ends
// it; later calls return the same at once. Any other error says that it could not be found out this time. The program calls Init.
func ForkserverSupport() error {
	support.Lock()
	defer support.Unlock()
	if support.known {
		return support.err
	}
	err := tryTemplate()
	var refused *MethodError
	switch {
	case err == nil:
		support.known = true
	case errors.As(err, &refused):
		support.known, support.err = true, refused
	default:
		return err
	}
	return support.err
}

func tryTemplate() error {
	s, err := New(Config{Method: MethodForkserver, Stdout: Null(), Stderr: Capture(nil)})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeoutCause(context.Background(), DefaultBootTimeout, ErrBootTimeout)
	defer cancel()
	return s.Warm(ctx)
}
