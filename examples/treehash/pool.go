package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// pool hashes files in worker processes.
type pool struct {
	spawner    *forkspawn.Spawner
	stderr     *console
	dir        string
	workers    int
	crashAfter int
}

// hash returns an answer for each path. When it returns the spawner is closed and no worker is left. The
// error is not about a file: a worker could not be started, or ctx has ended.
func (p *pool) hash(ctx context.Context, paths []string) ([]answer, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	answers := make([]answer, len(paths))
	var taken, done atomic.Int64
	var seats sync.WaitGroup
	for n := range min(p.workers, len(paths)) {
		seats.Go(func() {
			s := seat{pool: p, name: fmt.Sprintf("worker-%d", n+1), crashAfter: p.crashAfter}
			for ctx.Err() == nil {
				i := int(taken.Add(1)) - 1
				if i >= len(paths) {
					return
				}
				var err error
				if answers[i], err = s.hash(ctx, paths[i]); err != nil {
					fail(err) // and the other seats end; the first error counts
					return
				}
				p.stderr.progress(int(done.Add(1)), len(paths))
			}
		})
	}
	seats.Wait()
	// This asks the workers to end, which they do, as they have nothing to do. When something failed,
	// ctx has ended: then those that are still busy are killed at once.
	closed := p.spawner.Shutdown(ctx)
	return answers, errors.Join(context.Cause(ctx), closed)
}

// seat has one worker at a time.
type seat struct {
	pool       *pool
	name       string
	worker     *forkspawn.Child // nil before the first file, and after a death
	crashAfter int              // for the next worker
}

// maxDeaths is how many workers a file may cost.
const maxDeaths = 3

// hash returns the answer for one file, if need be from another worker when one dies.
func (s *seat) hash(ctx context.Context, path string) (a answer, err error) {
	for range maxDeaths {
		if s.worker == nil {
			if err := s.spawn(ctx); err != nil {
				return a, err
			}
		}
		if a, err = s.ask(ctx, path); err == nil || ctx.Err() != nil {
			return a, err
		}
		// An *forkspawn.ExitError, which knows how the worker ended.
		s.pool.stderr.printf("%v; it was at %q", err, "./"+path)
		// There is nothing left to kill, as a rule, but what this side holds of a child is the caller's
		// to give back.
		if _, err := s.worker.Kill(); err != nil {
			return a, err
		}
		s.worker = nil
	}
	return answer{Err: fmt.Sprintf("given up, as %d workers died of it", maxDeaths)}, nil
}

// spawn fills the seat. Its error, a *forkspawn.BootError, says how far the child got and what stopped it.
func (s *seat) spawn(ctx context.Context) (err error) {
	s.worker, err = s.pool.spawner.Spawn(ctx, spawnspec.Spec{
		Name:  s.name,
		Entry: entry,
		Args:  orders{Dir: []byte(s.pool.dir), CrashAfter: s.crashAfter},
	})
	s.crashAfter = 0
	return err
}

// ask sends one request and receives its answer.
func (s *seat) ask(ctx context.Context, path string) (a answer, err error) {
	if err := s.worker.Send(ctx, request{Path: []byte(path)}); err != nil {
		return a, err
	}
	err = s.worker.Recv(ctx, &a)
	return a, err
}
