package forkspawn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// ErrNoChannel is the error of messages to and from a program of [WithProgram].
var ErrNoChannel = errors.New("a program that does not speak the protocol has no channel")

// Start starts a program that does not speak the protocol: a shell, a database, or a
// server that talks over its stdin and stdout. It is Spawn with [WithProgram], and
// with the base name of the program as the child's name. For another name, or a
// directory, call Spawn with a Spec.
func (s *Spawner) Start(ctx context.Context, cmd Command, opts ...Option) (*Child, error) {
	return s.Spawn(ctx, spawnspec.Spec{}, append([]Option{WithProgram(cmd)}, opts...)...)
}

// WithProgram starts a program that does not speak the protocol. It is executed with
// every start method, and gets no ticket. Of the spec, the Name and the Dir are used,
// and Group.Go uses the Deadline. An empty cmd.Path is a [*ConfigError], because a copy of
// this program could start itself without end.
//
// The Child has no channel. It is ready when the program has been started, or as
// [ReadyWhen], [ReadyOnOutput] or [ReadyOnPort] define. Everything else is as for
// other children: errors, captured output, events, groups and restarts. [Pipe] and
// [From] connect its stdin and stdout to this program.
//
// A program with such a stdin is asked to stop by the end of its stdin. Another one
// gets SIGTERM at once, and SIGKILL after StopGrace and TermGrace together.
//
// When this process ends, the Linux kernel kills the program's whole process group.
// A process that has left the group is not killed, nor one of another user if this
// process is not root.
// Elsewhere only the end of its stdin reaches the program.
func WithProgram(cmd Command) Option {
	return func(o *options) { o.cmd, o.program = cmd, true }
}

// readiness is when a program is ready.
type readiness struct {
	when   func(context.Context, *Child) error // nil is at once
	output *outputWatch                        // of ReadyOnOutput, or nil
}

// ReadyWhen makes a program ready when probe returns nil. If probe returns an error,
// the start fails with it. probe must return when ctx ends: after BootTimeout, or
// when the program has ended.
func ReadyWhen(probe func(ctx context.Context, c *Child) error) Option {
	return func(o *options) { o.ready = readiness{when: probe} }
}

// ReadyOnOutput makes a program ready when it has written text to its captured stdout
// or stderr. The text is a part of one line.
func ReadyOnOutput(text string) Option {
	return func(o *options) {
		w := &outputWatch{text: text, found: make(chan struct{})}
		o.ready = readiness{output: w, when: func(ctx context.Context, c *Child) error {
			if c.streams.Stdout == nil && c.streams.Stderr == nil {
				return badField("Stderr", "ReadyOnOutput needs a captured stdout or stderr")
			}
			select {
			case <-w.found:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("no output with %q: %w", text, wait.Cause(ctx))
			}
		}}
	}
}

// ReadyOnPort makes a program ready when it accepts connections at an address of
// [net.Dial]: "tcp" and "127.0.0.1:5432", for example. Nothing else may listen there.
func ReadyOnPort(network, address string) Option {
	return ReadyWhen(func(ctx context.Context, c *Child) error {
		var dialer net.Dialer
		var last error // preferably of the address, and not of the end of ctx
		for {
			conn, err := dialer.DialContext(ctx, network, address)
			if err == nil {
				return conn.Close()
			}
			var late net.Error
			if last == nil || !errors.As(err, &late) || !late.Timeout() {
				last = err
			}
			if wait.For(ctx, c.exited, portPause) || ctx.Err() != nil {
				return fmt.Errorf("%w: %w", wait.Cause(ctx), last)
			}
		}
	})
}

// portPause is the time between two attempts of ReadyOnPort.
const portPause = 20 * time.Millisecond

// outputWatch finds a text in the streams of a program.
type outputWatch struct {
	text  string
	once  sync.Once
	found chan struct{}
}

// stream returns the function that gets the output of one stream.
func (w *outputWatch) stream() func([]byte) {
	var end []byte // of the output so far, shorter than the text
	return func(p []byte) {
		if wait.Closed(w.found) {
			return
		}
		end = append(end, p...)
		if bytes.Contains(end, []byte(w.text)) {
			w.once.Do(func() { close(w.found) })
		}
		end = append(end[:0], end[max(0, len(end)-len(w.text)+1):]...)
	}
}

// runProgram starts a program and waits until it is ready.
func (b *boot) runProgram(ctx context.Context) (*Child, error) {
	if b.cmd.Path == "" {
		// A copy of this program without a ticket would be the root of another tree, and
		// could start the next copy.
		return nil, b.fail(badField("Command.Path",
			"empty; a program without the protocol needs its path"))
	}
	limits, release := b.limit(ctx)
	defer release()
	a := &attempt{boot: b, id: handshake.NewID()}
	if limits.timed.Err() != nil {
		return nil, b.fail(wait.Cause(limits.timed))
	}
	proc, streams, err := a.launch(limits.timed, handshake.Ticket{}, false)
	if err != nil {
		// a start that Do has abandoned can still write
		nameLines(a.lineWriters, ChildEvent{Name: b.spec.Name, ID: a.id})
		return nil, b.fail(err)
	}
	a.start(limits.timed, proc, streams, false)
	if a.ready.when != nil {
		stop := a.watchStop(limits.cancel)
		_, err = a.await(limits, func(ctx context.Context) (*handshake.Peer, error) {
			return nil, a.probe(ctx)
		})
		stop()
	}
	if err != nil {
		return nil, a.abandon(limits.ctx, err)
	}
	a.child.boot = BootTimes{Launch: a.began.Sub(b.called.Time),
		Ready: time.Since(a.began.Time), Total: time.Since(b.called.Time)}
	a.report.ready(a.event(a.child.PID(), time.Now()), a.child.boot)
	a.s.add(a.child)
	return a.child, nil
}

// probe calls the probe until the program or ctx ends.
func (a *attempt) probe(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	var watch sync.WaitGroup
	defer watch.Wait()
	defer close(watched)
	watch.Go(func() {
		select {
		case <-a.child.exited:
			cancel(ErrDied)
		case <-watched:
		}
	})
	err := a.ready.when(ctx, a.child)
	if err != nil && wait.Closed(a.child.exited) {
		return ErrDied // the exit status explains it
	}
	return err
}

// noChannel returns the error of a message.
func (c *Child) noChannel() error {
	return fmt.Errorf("forkspawn: child %q: %w", c.spec.Name, ErrNoChannel)
}

// askProgram asks a program to stop.
func (c *Child) askProgram() {
	if c.streams.In != nil {
		c.streams.In.File.Close()
	} else {
		c.terminate()
	}
}

// nameOf returns the name of a child with a spec and options.
func (s *Spawner) nameOf(spec *spawnspec.Spec, opts []Option) string {
	o := s.options(opts...)
	return o.nameOf(spec)
}
