package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// pool hashes files in worker processes.
type pool struct {
	spawner    *forkspawn.Spawner
	stderr     *console
	dir        string
	crashAfter int
	hosts      []forkspawn.Launcher // none is this machine
	workers    []worker
}

// worker is a place in the pool, with one child at a time.
type worker struct {
	child *forkspawn.Child // nil before the first file
	conn  *call.Conn
}

// maxDeaths is how many workers may die while they hash the same file.
const maxDeaths = 3

// hash returns an answer for each path and closes the spawner, so no worker is
// left. It returns an error if a worker could not be started or ctx has ended.
// The error of a single file is in its answer.
func (p *pool) hash(ctx context.Context, paths []string) ([]answer, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer func() {
		for _, w := range p.workers {
			if w.conn != nil {
				w.conn.Close()
			}
		}
	}()
	answers := make([]answer, len(paths))
	cfg := call.MapConfig{
		Parallel:  len(p.workers), // a file for each worker
		Unordered: true,
		Open:      p.open,
		Repeat: func(i, deaths int, err error) bool {
			p.stderr.printf("%v; it was at %q", cause(err), "./"+paths[i])
			if deaths == maxDeaths {
				answers[i].Err = fmt.Sprintf("given up, as %d workers died of it", deaths)
			}
			return deaths < maxDeaths
		},
	}
	requests := func(yield func(request) bool) {
		for _, path := range paths {
			if !yield(request{[]byte(path)}) {
				return
			}
		}
	}
	done := 0
	for r := range call.Map(ctx, make([]*call.Conn, len(p.workers)), sumOf, requests, cfg) {
		if r.Err == nil {
			answers[r.Index] = r.Value
		} else if answers[r.Index].Err == "" { // no worker, or ctx has ended
			fail(cause(r.Err))
			break
		}
		done++
		p.stderr.progress(done, len(paths))
	}
	// This asks the workers to stop. They are idle, so they stop at once. If
	// something has failed, ctx has ended and busy workers are killed.
	closed := p.spawner.Shutdown(ctx)
	return answers, errors.Join(context.Cause(ctx), closed)
}

// cause returns the error of forkspawn in an error of a call.
func cause(err error) error {
	var boot *forkspawn.BootError
	var exit *forkspawn.ExitError
	switch {
	case errors.As(err, &boot):
		return boot
	case errors.As(err, &exit):
		return exit
	}
	return err
}

// open starts worker i, also in place of one that has died. Its error is a
// *forkspawn.BootError, with the phase in which the start has failed and the cause.
func (p *pool) open(ctx context.Context, i int) (*call.Conn, error) {
	w := &p.workers[i]
	args := workerArgs{Dir: []byte(p.dir), Afar: len(p.hosts) > 0}
	if w.child == nil {
		args.CrashAfter = p.crashAfter
	} else {
		// The worker has usually exited already, but Kill also frees the
		// resources that this process holds for it.
		if _, err := w.child.Kill(); err != nil {
			return nil, err
		}
		w.conn.Close()
	}
	var host forkspawn.Launcher // nil is this machine
	if args.Afar {
		host = p.hosts[i%len(p.hosts)]
	}
	child, err := p.spawner.Spawn(ctx,
		spawnspec.Spec{Name: fmt.Sprintf("worker-%d", i+1), Entry: entry, Args: args},
		forkspawn.WithCommand(forkspawn.Command{Launcher: host}))
	if err != nil {
		return nil, err
	}
	mux := call.NewMux()
	contentOf.Handle(mux, p.send)
	w.child, w.conn = child, call.New(child, mux)
	return w.conn, nil
}

// send handles contentOf: it sends a file to a worker on another machine.
func (p *pool) send(_ context.Context, r request, send func([]byte) error) error {
	f, err := os.OpenInRoot(p.dir, string(r.Path))
	if err != nil {
		return reason(err)
	}
	defer f.Close()
	buf := make([]byte, sentSize)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF: //nolint:errorlint // by File.Read
			return nil
		case err != nil:
			return reason(err)
		}
	}
}
