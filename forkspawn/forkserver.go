package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// templates has the warm-ups by name, and the functions for each forked child.
var templates = struct {
	sync.Mutex // guards what follows
	warmUps    map[string]func() error
	afterFork  []func() error
}{warmUps: make(map[string]func() error)}

// RegisterWarmUp adds a warm-up for [Config.WarmUp]. With [MethodForkserver] the
// template calls it once, before it forks children, so that they begin with its
// results. The parent and the template both call RegisterWarmUp before [Init]. It
// panics if name is empty or already registered, or warmUp is nil. If warmUp
// returns an error or panics, the error of the waiting Spawns is an
// [*ExitError] with the Name "template".
//
//	forkspawn.RegisterWarmUp("table", loadTable) // func loadTable() error
//	forkspawn.Register("query", query)
//	forkspawn.Init() // in the template: warms up, and forks
//
//	spawner, err := forkspawn.New(forkspawn.Config{
//		Method: forkspawn.MethodForkserver, WarmUp: "table",
//	})
//	...
//	err = spawner.AwaitTemplate(ctx) // or the first Spawn waits for the warm-up
//
// The Spawner starts the template when it first needs one, and ends it in Close. It
// starts another one if this one has ended, is stopped, or takes longer than
// [Config.WarmUpTimeout]. It also does so if this process's credentials have
// changed. A command with another program or other arguments is executed, not
// forked. MethodForkserver needs linux/amd64 or linux/arm64, a program built with
// CGO_ENABLED=0, and a version of Go that is known on this processor;
// [CheckForkserver] tests that. See [Config.ForkserverAnyGo].
//
// A forked child is a child of this process. Its own are its standard streams,
// directory, process group, command name, parent-death signal and environment, with
// the effects of GOGC, GOMEMLIMIT, GOMAXPROCS, TZ, and most of GODEBUG. It gets from
// the template the limits, credentials, umask and namespaces, and the command line
// and environment in /proc. It shares the memory of the template until one of them
// writes to it:
//
//   - Every child can read all data of the warm-up, including secrets. No child
//     sees the spec or the environment of another one.
//   - Random seeds are the same in all children: maphash.Seed, the seeds of maps,
//     TLS ticket keys, and a math/rand.Rand of the program. Use [AfterFork] to
//     renew them. The functions of math/rand and crypto/rand differ in each child.
//     spawntest.ForksDiffer tests that, and docs/guides/shared-table.md lists
//     how well-known libraries behave.
//   - A log that the warm-up has opened works: a child has each file that was
//     opened to write or to append only. It opens files that were opened to read
//     again, at the same position. A listener gets no calls, and an inotify or timer
//     descriptor no events. All else, such as connections, pipes, files of os.Create
//     and the files of a database, is closed in a child; reads return EOF. A line in
//     [Config.Logger] names those.
//   - Signals notified or ignored in the warm-up have their default action.
//   - Each child has copies of the goroutines that the warm-up left running, with
//     their locks, timers and unflushed buffers.
//   - Nothing can be forked while the template has a CPU profile or an execution
//     trace running.
//   - A garbage collection writes to memory with pointers, and so ends the sharing
//     of about half of it. So keep a large table in few objects without pointers,
//     for example in one []byte with offsets.
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

// AwaitTemplate starts the template of [MethodForkserver], if there is none, and
// waits until its warm-up is done. Config.BootTimeout does not bound that wait. It
// returns nil at once if children are not forked. Otherwise the error is a
// [*ExitError], a [*ConfigError] or that of ctx, or matches
// [ErrSpawnerClosed].
func (s *Spawner) AwaitTemplate(ctx context.Context) error {
	if _, err := s.forks.ready(ctx, &s.cfg.Command); err != nil {
		return prefixed("await the template", err)
	}
	return nil
}

// AfterFork adds a function that each forked child calls before it joins its
// parent, in the order of the calls of AfterFork. It is for state that must differ
// between processes, such as random seeds. If f returns an error, the child writes
// it to stderr and exits with 1. Call AfterFork before [Init], or in a
// warm-up. It panics if f is nil.
func AfterFork(f func() error) {
	if f == nil {
		panic("forkspawn: AfterFork with a nil function")
	}
	templates.Lock()
	defer templates.Unlock()
	templates.afterFork = append(templates.afterFork, f)
}

// warmUpOf returns the warm-up of that name. That of "" does nothing.
func warmUpOf(name string) (func() error, error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	templates.Lock()
	defer templates.Unlock()
	if f := templates.warmUps[name]; f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("no warm-up %q; %s", name, listed(templates.warmUps))
}

// afterForks returns the functions of AfterFork.
func afterForks() []func() error {
	templates.Lock()
	defer templates.Unlock()
	return slices.Clone(templates.afterFork)
}

// support is the result of CheckForkserver.
var support = struct {
	turn  chan struct{} // holds one value while a template is tested
	known bool
	err   error
}{turn: make(chan struct{}, 1)}

// CheckForkserver tests whether this program can fork children here. It returns
// nil, or a [*ConfigError] with the reason and a remedy. Any other error means
// that the test itself has failed, or ctx has ended. The test starts a template
// without a warm-up and takes about half a second. Later calls return the same
// result at once. The program must call [Init].
func CheckForkserver(ctx context.Context) error {
	select {
	case support.turn <- struct{}{}:
		defer func() { <-support.turn }()
	case <-ctx.Done():
		return prefixed("check the forkserver", wait.Cause(ctx))
	}
	if support.known {
		return support.err
	}
	err := tryTemplate(ctx)
	switch {
	case err == nil:
		support.known = true
	case errors.Is(err, ErrMethodUnavailable):
		support.known, support.err = true, err
	default:
		return prefixed("check the forkserver", err)
	}
	return support.err
}

func tryTemplate(ctx context.Context) error {
	s, err := New(Config{Method: MethodForkserver, Stdout: Null(), Stderr: Capture(nil)})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, defaultBootTimeout, ErrBootTimeout)
	defer cancel()
	return s.AwaitTemplate(ctx)
}
