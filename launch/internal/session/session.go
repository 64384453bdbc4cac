// Package session is the near side of launchers with a supervisor at their far side. It
// makes a process of the supervisor's reports, and runs the program between the two.
package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// Engine is what carries a session: an ssh, for example. Its methods are called once
// each, End after Start has failed or the session is over.
type Engine interface {
	io.Reader // from the supervisor
	io.Writer // to it
	// Lost returns the error of a session whose connection has ended before the
	// child, because of cause.
	Lost(cause error) error
	// End ends the connection, waits for its end, and frees everything.
	End()
}

// Config has the settings of a session.
type Config struct {
	Silence time.Duration       // how long the supervisor may be silent
	Peer    func() link.Verdict // see link.Config
	Asked   bool                // the supervisor has the Request already
	// Why returns what the engine knows of a failed child, or nil. It may wait a moment.
	// It is not called after a signal from here. A nil Why knows nothing.
	Why func(forkspawn.ExitStatus) error
}

// silence bounds the end of a child after SIGKILL: then the launcher ends the engine. A
// longer silence alone is no reason to end anything.
const silence = 3 * time.Second

// Patient has the settings for an engine whose silence proves nothing. A stopped engine is
// not a dead one, and a killed one closes the connection.
var Patient = Config{Silence: silence, Peer: func() link.Verdict { return link.Alive }}

// Order returns the environment variable of a supervisor, for a session with the settings
// Patient. nonce is that of StartClient.
func Order(nonce string) string { return link.SupervisorEnv + "=" + link.Order(nonce, silence) }

// Program returns the path of the program for a far side with Linux. "" is this process's
// own.
func Program(path string) (string, error) {
	switch {
	case path != "":
		return path, nil
	case runtime.GOOS != "linux":
		return "", errors.New("field Program: this program is not one for Linux: name one")
	}
	return os.Executable()
}

// settleBound bounds the wait for the last output of a child.
const settleBound = 200 * time.Millisecond

// signals is how many signals may wait for a connection that takes nothing.
const signals = 16

// Session is a child that a supervisor holds. It implements forkspawn.Launched.
type Session struct {
	cfg    Config
	engine Engine
	link   *link.Link

	started chan error           // gets the result of the start
	report  chan link.Exited     // gets how the child has ended
	output  sync.WaitGroup       // the goroutines of the child's output
	streams sync.WaitGroup       // those of its connections, and of signals
	signals chan link.ToFar      // to be sent
	sent    bool                 // a signal was sent; live's own
	status  forkspawn.ExitStatus // set before exited is closed, like lost
	lost    error
	once    sync.Once
	exited  chan struct{}
}

// Start asks the supervisor at the other end of an engine to start a child, and waits
// until it runs or ctx ends. It takes engine over.
func Start(
	ctx context.Context, l *forkspawn.Launch, engine Engine, cfg Config,
) (forkspawn.Launched, error) {
	s := &Session{
		cfg: cfg, engine: engine, started: make(chan error, 1),
		exited: make(chan struct{}), signals: make(chan link.ToFar, signals),
		report: make(chan link.Exited, 1),
	}
	ready := make(chan struct{}) // closed when s.link is set
	s.link = link.New(&gate{engine, ready}, engine, link.Config{
		Message: s.message, Silence: cfg.Silence, Peer: cfg.Peer,
		Open: func(stream *link.Stream) { s.connect(stream, l.Accept) },
	})
	s.carry(link.Stdout, l.Stdout)
	s.carry(link.Stderr, l.Stderr)
	close(ready)
	over := make(chan struct{})
	l.Go(func() {
		defer close(over)
		s.live()
	})
	err := s.begin(ctx, l)
	if err == nil {
		return s, nil
	}
	s.end(forkspawn.ExitStatus{}, nil)
	s.link.Close()
	<-over
	return nil, err
}

// gate holds reads up until the session is complete.
type gate struct {
	io.Reader
	ready <-chan struct{}
}

func (g *gate) Read(p []byte) (int, error) {
	<-g.ready
	return g.Reader.Read(p)
}

// Request returns the first frame for the supervisor: what it is to start.
func Request(l *forkspawn.Launch) ([]byte, error) {
	if l.Dir != "" && !strings.HasPrefix(l.Dir, "/") {
		return nil, &fs.PathError{Op: "chdir", Path: l.Dir,
			Err: errors.New("on another machine the directory must be an absolute path")}
	}
	text := strings.Fields(l.Ticket.Encode())
	return link.Frame(link.ToFar{Start: &link.Start{
		Path: l.Path, Dir: l.Dir, Args: l.Args, Env: l.Env, NewSession: l.NewSession,
		Ticket: strings.Join(text[:min(3, len(text))], " "), // its address is another one there
		Stdout: l.Stdout != nil, Stderr: l.Stderr != nil,
	}})
}

// begin sends the request and waits for the answer.
func (s *Session) begin(ctx context.Context, l *forkspawn.Launch) error {
	if !s.cfg.Asked {
		request, err := Request(l)
		if err != nil {
			return err
		}
		go s.link.SendFrame(request) // it ends with the link
	}
	select {
	case err := <-s.started:
		return err
	case <-s.exited:
		select {
		case err := <-s.started:
			return err // it has run and ended
		default:
			return s.lost
		}
	case <-ctx.Done():
		return wait.Cause(ctx)
	}
}

// carry writes what a stream has to a copy of a file.
func (s *Session) carry(id uint16, f *os.File) {
	if f == nil {
		return
	}
	stream := s.link.Stream(id)
	w, err := Duplicate(f)
	s.output.Go(func() {
		if err != nil {
			stream.ReceiveInto(io.Discard)
			return
		}
		defer w.Close()
		stream.ReceiveInto(w)
	})
}

// connect makes a connection of a stream, in the link's reading goroutine.
func (s *Session) connect(stream *link.Stream, accept func(net.Conn)) {
	near, far, err := unixsock.Pair()
	if err != nil {
		s.streams.Go(func() { stream.Serve(refused{}) }) // the child tries again, or fails
		return
	}
	s.streams.Go(func() { stream.Serve(near.(link.Conn)) })
	accept(far)
}

// refused is a connection that has failed.
type refused struct{}

func (refused) Read([]byte) (int, error)  { return 0, io.EOF }
func (refused) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (refused) CloseWrite() error         { return nil }
func (refused) Close() error              { return nil }

// message takes a message of the supervisor, in the link's reading goroutine.
func (s *Session) message(body []byte) {
	var m link.ToNear
	if link.Decode(body, &m) != nil {
		return
	}
	switch {
	case m.Started != 0:
		s.answer(nil)
	case m.Failed != nil:
		s.answer(failure(m.Failed))
	case m.Exited != nil:
		select {
		case s.report <- *m.Exited:
		default: // a second one
		}
	}
}

func (s *Session) answer(err error) {
	select {
	case s.started <- err:
	default:
	}
}

// failure makes the error of a start of what the supervisor has reported.
func failure(f *link.Failed) error {
	err := errnoOf(f.Errno)
	if err == nil {
		err = errors.New(f.Text)
	}
	if f.Path != "" {
		return &fs.PathError{Op: f.Op, Path: f.Path, Err: err}
	}
	if f.Errno != "" {
		return fmt.Errorf("%w: %s", err, f.Text)
	}
	return err
}

// ErrMemory explains the end of a child that the kernel has killed for lack of memory.
var ErrMemory = errors.New("out of memory: the kernel has killed it")

// ended takes the report of the child's end.
func (s *Session) ended(e link.Exited) {
	s.settle()
	status := statusOf(e)
	var why error
	switch {
	case e.OOM:
		why = ErrMemory
	case s.cfg.Why != nil && !s.sent && !status.Success():
		why = s.cfg.Why(status)
	}
	s.end(status, why)
}

func statusOf(e link.Exited) forkspawn.ExitStatus {
	switch {
	case !e.Known:
		return forkspawn.ExitStatus{}
	case e.Signal != 0:
		return forkspawn.KilledStatus(syscall.Signal(e.Signal), e.Core)
	}
	return forkspawn.ExitedStatus(e.Code)
}

// end sets how the child has ended, once.
func (s *Session) end(status forkspawn.ExitStatus, lost error) {
	s.once.Do(func() {
		s.status, s.lost = status, lost
		close(s.exited)
	})
}

// live sends signals until the child has ended, and then ends the session.
func (s *Session) live() {
	var killing <-chan time.Time
	for !wait.Closed(s.exited) && !wait.Closed(s.link.Done()) {
		select {
		case m := <-s.signals:
			s.sent = true
			if m.Group == int(syscall.SIGKILL) && killing == nil {
				killing = time.After(s.cfg.Silence)
			}
			s.streams.Go(func() { s.link.Send(m) })
		case <-killing:
			s.link.Close() // the supervisor then ends the child, if it can
		case e := <-s.report:
			s.ended(e)
		case <-s.exited:
		case <-s.link.Done():
		}
	}
	select {
	case e := <-s.report: // it came just before the end of the link
		s.ended(e)
	default:
	}
	if !wait.Closed(s.exited) {
		s.end(forkspawn.ExitStatus{}, s.engine.Lost(s.link.Err()))
	}
	s.link.AwaitEnds()
	s.link.Close()
	s.engine.End()
	s.link.Wait()
	s.output.Wait()
	s.streams.Wait()
}

// settle waits until the child's output is written, unless a descendant of the child
// keeps it open.
func (s *Session) settle() {
	written := make(chan struct{})
	go func() {
		defer close(written)
		s.output.Wait()
	}()
	wait.For(context.Background(), written, settleBound)
}

// PID returns 0, because the number is one of another kernel.
func (s *Session) PID() int { return 0 }

// Wait waits until the child has ended or is lost.
func (s *Session) Wait() forkspawn.ExitStatus {
	<-s.exited
	return s.status
}

// Err returns why the status is unknown or what else is known of the end, or nil.
func (s *Session) Err() error {
	<-s.exited
	return s.lost
}

// Signal sends a signal to the child. It does not wait for the connection.
func (s *Session) Signal(sig syscall.Signal) error {
	return s.signal(link.ToFar{Signal: int(sig)})
}

// SignalGroup sends a signal to the child's process group. If the child has not ended
// some time after SIGKILL, the connection is ended.
func (s *Session) SignalGroup(sig syscall.Signal) error {
	return s.signal(link.ToFar{Group: int(sig)})
}

var errBusy = errors.New("the connection takes no more signals")

func (s *Session) signal(m link.ToFar) error {
	if wait.Closed(s.exited) {
		return os.ErrProcessDone
	}
	select {
	case s.signals <- m:
		return nil
	default:
		return errBusy
	}
}
