package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	hosts      []forkspawn.Launcher // none is this machine
}

// hash returns an answer for each path and closes the spawner, so no worker is
// left. It returns an error if a worker could not be started or ctx has ended.
// The error of a single file is in its answer.
func (p *pool) hash(ctx context.Context, paths []string) ([]answer, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	answers := make([]answer, len(paths))
	var taken, done atomic.Int64
	var slots sync.WaitGroup
	for n := range min(p.workers, len(paths)) {
		slots.Go(func() {
			s := slot{pool: p, name: fmt.Sprintf("worker-%d", n+1), crashAfter: p.crashAfter}
			if len(p.hosts) > 0 {
				s.host = p.hosts[n%len(p.hosts)]
			}
			for ctx.Err() == nil {
				i := int(taken.Add(1)) - 1
				if i >= len(paths) {
					return
				}
				var err error
				if answers[i], err = s.hash(ctx, paths[i]); err != nil {
					fail(err) // ends the other slots too; the first error counts
					return
				}
				p.stderr.progress(int(done.Add(1)), len(paths))
			}
		})
	}
	slots.Wait()
	// This asks the workers to stop. They are idle, so they stop at once. If
	// something has failed, ctx has ended and busy workers are killed.
	closed := p.spawner.Shutdown(ctx)
	return answers, errors.Join(context.Cause(ctx), closed)
}

// slot has one worker at a time and replaces it when it dies.
type slot struct {
	pool       *pool
	name       string
	host       forkspawn.Launcher // of its workers; nil is this machine
	worker     *forkspawn.Child   // nil before the first file and after a death
	crashAfter int                // for the next worker
}

// maxDeaths is how many workers may die while they hash the same file.
const maxDeaths = 3

// hash returns the answer for one file. If the worker dies, another one hashes
// the file.
func (s *slot) hash(ctx context.Context, path string) (a answer, err error) {
	for range maxDeaths {
		if s.worker == nil {
			if err := s.spawn(ctx); err != nil {
				return a, err
			}
		}
		if a, err = s.ask(ctx, path); err == nil || ctx.Err() != nil {
			return a, err
		}
		// err is a *forkspawn.ExitError, with the worker's exit status.
		s.pool.stderr.printf("%v; it was at %q", err, "./"+path)
		// The worker has usually exited already, but Kill also frees the
		// resources that this process holds for it.
		if _, err := s.worker.Kill(); err != nil {
			return a, err
		}
		s.worker = nil
	}
	return answer{Err: fmt.Sprintf("given up, as %d workers died of it", maxDeaths)}, nil
}

// spawn starts a worker. Its error is a *forkspawn.BootError, with the phase in
// which the start has failed and the cause.
func (s *slot) spawn(ctx context.Context) (err error) {
	s.worker, err = s.pool.spawner.Spawn(ctx, spawnspec.Spec{
		Name:  s.name,
		Entry: entry,
		Args:  workerArgs{Dir: []byte(s.pool.dir), CrashAfter: s.crashAfter},
	}, forkspawn.WithCommand(forkspawn.Command{Launcher: s.host}))
	s.crashAfter = 0
	return err
}

// ask sends one request and receives its answer.
func (s *slot) ask(ctx context.Context, path string) (a answer, err error) {
	if s.host != nil {
		return s.askAfar(ctx, path)
	}
	if err := s.worker.Send(ctx, request{Path: []byte(path)}); err != nil {
		return a, err
	}
	err = s.worker.Recv(ctx, &a)
	return a, err
}

// askAfar is ask for a worker on another machine: it sends the file after the request.
func (s *slot) askAfar(ctx context.Context, path string) (a answer, err error) {
	f, err := os.Open(filepath.Join(s.pool.dir, filepath.FromSlash(path)))
	if err != nil {
		return answer{Err: reason(err).Error()}, nil
	}
	defer f.Close()
	if err := s.worker.Send(ctx, request{Path: []byte(path), Sent: true}); err != nil {
		return a, err
	}
	buf := make([]byte, sentSize)
	for {
		n, readErr := io.ReadFull(f, buf)
		if n > 0 {
			if err := s.worker.SendBytes(ctx, buf[:n]); err != nil {
				return a, err
			}
		}
		if readErr == nil {
			continue
		}
		if err := s.worker.SendBytes(ctx, nil); err != nil { // the end
			return a, err
		}
		if err := s.worker.Recv(ctx, &a); err != nil {
			return a, err
		}
		if readErr != io.EOF && readErr != io.ErrUnexpectedEOF { //nolint:errorlint // by ReadFull
			a.Err = reason(readErr).Error()
		}
		return a, nil
	}
}
