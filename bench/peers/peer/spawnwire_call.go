package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnwireCall is package call of this library: the other process is a spawned
// child that serves calls. A round trip is a unary call, and each sender has
// one long-lived bidirectional stream. Messages are a struct with a number and bytes, in CBOR. The
// settings are the defaults, except the limit for messages, and that for calls in
// Unread.
type spawnwireCall struct{}

func (spawnwireCall) Name() string      { return "spawnwire, call" }
func (spawnwireCall) Module() string    { return spawnwire{}.Module() }
func (spawnwireCall) Does(job Job) bool { return job.Network == "unix" && job.Connections <= 1 }

// The methods.
var (
	wireEcho = call.NewUnary[message, message]("echo")
	wirePut  = call.NewBidi[message, message]("put")
	wireDown = call.NewBidi[message, message]("down")
	wireWait = call.NewSession[int, int, int]("wait") // until it is cancelled
)

func wireConfig(job Job) call.Config {
	cfg := call.Config{MaxMessage: MaxLarge + 1<<10}
	if job.Work == Unread {
		cfg.MaxCalls = Streams + 1
	}
	return cfg
}

// wireArgs are the arguments of wireEntry.
type wireArgs struct {
	Dir string // for serveAllocs
	Job Job
}

// wireEntry is the entry of the child.
const wireEntry = "peers-call"

func (p spawnwireCall) Open(ctx context.Context, job Job) (Worker, error) {
	dir, err := os.MkdirTemp("", "peers-")
	if err != nil {
		return nil, err
	}
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	child, err := s.Spawn(ctx, spawnspec.Spec{Name: p.Name(), Entry: wireEntry,
		Args: wireArgs{dir, job}})
	if err != nil {
		return nil, errors.Join(err, s.Close(), os.RemoveAll(dir))
	}
	conn := wireConfig(job).New(child, nil)
	end := sync.OnceValue(func() error {
		child.Kill()
		return errors.Join(conn.Close(), s.Close(), os.RemoveAll(dir))
	})
	if job.Work == Stream || job.Work == Senders {
		return &stream{job: job, close: end, open: func() (sender, error) {
			s, err := wirePut.Open(background, conn)
			return &callSender{s: s, end: endPayload(job.Size)}, err
		}}, nil
	}
	return (&caller{close: end, allocs: allocsOf(dir),
		unary:  func() trip { return wireTrip(conn) },
		down:   func() (*down, error) { return wireReceive(conn) },
		cancel: func() (time.Duration, error) { return wireCancel(conn) },
	}).worker(job), nil
}

func wireTrip(conn *call.Conn) trip {
	var m message
	return func(payload []byte) ([]byte, error) {
		m.ID, m.Body = m.ID+1, payload
		reply, err := wireEcho.Call(background, conn, m)
		return reply.Body, err
	}
}

func wireReceive(conn *call.Conn) (*down, error) {
	s, err := wireDown.Open(background, conn)
	if err != nil {
		return nil, err
	}
	return &down{
		ask: func(payload []byte) error { return s.Send(message{Body: payload}) },
		next: func() ([]byte, error) {
			m, err := s.Recv()
			return m.Body, err
		},
		end: func() { s.Close() },
	}, nil
}

func wireCancel(conn *call.Conn) (time.Duration, error) {
	ctx, cancel := context.WithCancel(background)
	defer cancel()
	_, s, err := wireWait.Open(ctx, conn)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	cancel()
	_, err = s.Recv()
	took := time.Since(start)
	if !errors.Is(err, context.Canceled) || errors.Is(err, call.ErrStillRunning) {
		return 0, fmt.Errorf("a cancelled call: %w", err)
	}
	return took, s.Close()
}

// callSender is one call of Put.
type callSender struct {
	s   *call.Stream[message, message]
	end []byte // requests the report
	m   message
}

func (w *callSender) send(payload []byte) error {
	w.m.ID, w.m.Body = w.m.ID+1, payload
	err := w.s.Send(w.m)
	if err == io.EOF { //nolint:errorlint // the call has failed; Recv returns the reason
		_, err = w.s.Recv()
	}
	return err
}

func (w *callSender) done() (report, error) {
	if err := w.send(w.end); err != nil {
		return report{}, err
	}
	reply, err := w.s.Recv()
	if err != nil {
		return report{}, err
	}
	return parseReport(reply.Body)
}

// serveWire is the entry of the child.
func serveWire(ctx context.Context, parent *forkspawn.Parent) error {
	var args wireArgs
	if err := parent.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	if err := serveAllocs(args.Dir); err != nil {
		return err
	}
	mux := call.NewMux()
	wireEcho.Handle(mux, func(_ context.Context, m message) (message, error) { return m, nil })
	wirePut.Handle(mux, func(_ context.Context, s *call.Stream[message, message]) error {
		var got report
		for m, err := range s.All() {
			if err != nil {
				return err
			}
			if !got.take(m.Body) {
				continue
			}
			if err := s.Send(message{Body: got.bytes()}); err != nil {
				return err
			}
			got = report{}
		}
		return nil
	})
	wireDown.Handle(mux, func(_ context.Context, s *call.Stream[message, message]) error {
		return produce(func() ([]byte, error) {
			m, err := s.Recv()
			return m.Body, err
		}, func(p []byte) error { return s.Send(message{Body: p}) })
	})
	wireWait.Handle(mux, func(
		ctx context.Context, _ *call.Stream[int, int], started func(int) error,
	) error {
		if err := started(0); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	return wireConfig(args.Job).Serve(ctx, parent, mux)
}

// Serve returns an error, because the child runs serveWire.
func (spawnwireCall) Serve(Job, Ready) error { return spawnwire{}.Serve(Job{}, Ready{}) }
