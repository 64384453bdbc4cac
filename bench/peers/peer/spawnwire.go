package peer

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// spawnwire is this library: the other process is a spawned child, and the
// connection is its channel. Raw bytes are received into the caller's buffer, or
// borrowed. Typed messages are a struct of two fields in CBOR. Its bytes are new
// memory for each message or, with reused, a transport.Bytes in the same value.
// With batched a stream uses a transport.Batch, and with ring all goes through a ring in
// shared memory (forkspawn.Config.Ring).
type spawnwire struct{ typed, reused, borrowed, batched, ring bool }

func (p spawnwire) Name() string {
	name := "spawnwire, bytes"
	switch {
	case p.typed && p.reused:
		name = "spawnwire, typed, Bytes"
	case p.typed:
		name = "spawnwire, typed"
	case p.borrowed:
		name = "spawnwire, borrowed"
	}
	if p.batched {
		name += ", batched"
	}
	if p.ring {
		name += ", ring"
	}
	return name
}

func (p spawnwire) Module() string { return "github.com/spawnwire/spawnwire" }

// Does excludes batches except in a stream, because a batch belongs to one
// goroutine and a round trip has nothing to batch. For calls there is spawnwireCall.
// There are no rings over TCP, and none between the peers of more connections.
func (p spawnwire) Does(job Job) bool {
	if p.ring && (job.Network != "unix" || job.Connections > 1) {
		return false
	}
	return !job.calls() && (!p.batched || job.Work == Stream)
}

// message is a typed message.
type message struct {
	ID   uint64 `cbor:"1,keyasint"`
	Body []byte `cbor:"2,keyasint"`
}

// messageReused is message for a receiver that decodes into the same value again.
type messageReused struct {
	ID   uint64          `cbor:"1,keyasint"`
	Body transport.Bytes `cbor:"2,keyasint"`
}

// Senders and receivers use context.Background, because the floor has no context.

// sender returns the sender of one goroutine.
func (p spawnwire) sender(ch *transport.Channel) sender {
	ctx := context.Background()
	var batch *transport.Batch
	send, sendBytes := ch.Send, ch.SendBytes
	if p.batched {
		batch = ch.NewBatch()
		send, sendBytes = batch.Send, batch.SendBytes
	}
	s := &wireSender{batch: batch}
	switch {
	case p.reused:
		m := new(messageReused)
		s.sendFunc = func(payload []byte) error {
			m.ID, m.Body = m.ID+1, payload
			return send(ctx, m)
		}
	case p.typed:
		m := new(message)
		s.sendFunc = func(payload []byte) error {
			m.ID, m.Body = m.ID+1, payload
			return send(ctx, m)
		}
	default:
		s.sendFunc = func(payload []byte) error { return sendBytes(ctx, payload) }
	}
	return s
}

type wireSender struct {
	sendFunc
	batch *transport.Batch // or nil
}

func (s *wireSender) done() (report, error) {
	if s.batch == nil {
		return report{}, nil
	}
	return report{}, s.batch.Flush(context.Background())
}

// receiver returns a function that receives a payload of up to size bytes. The
// payload is valid until the next call.
func (p spawnwire) receiver(ch *transport.Channel, size int) func() ([]byte, error) {
	ctx := context.Background()
	switch {
	case p.reused:
		m := new(messageReused)
		return func() ([]byte, error) {
			err := ch.Recv(ctx, m)
			return m.Body, err
		}
	case p.typed:
		return func() ([]byte, error) {
			var m message
			err := ch.Recv(ctx, &m)
			return m.Body, err
		}
	case p.borrowed:
		return func() ([]byte, error) { return ch.RecvBorrowed(ctx) }
	}
	buf := make([]byte, size)
	return func() ([]byte, error) {
		n, err := ch.RecvBytes(ctx, buf)
		return buf[:n], err
	}
}

func (p spawnwire) Open(ctx context.Context, job Job) (Worker, error) {
	cfg := forkspawn.Config{Ring: p.ring}
	if job.Network == "tcp" {
		cfg.Listen = transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}
	}
	s, err := forkspawn.New(cfg)
	if err != nil {
		return nil, err
	}
	args := spawnwireArgs{Job: job, Peer: p.Name()}
	var more *moreChannels // nil, or channels that the child dials
	if job.Connections > 1 {
		if more, err = listenForMore(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		args.More = transport.Addr{Scheme: transport.SchemeUDS, Target: more.dir.Socket("more")}
	}
	child, err := s.Spawn(ctx, spawnspec.Spec{Name: p.Name(), Entry: spawnwireEntry, Args: args})
	if err != nil {
		return nil, errors.Join(err, more.close(), s.Close())
	}
	chs := []*transport.Channel{child.Channel()}
	end := sync.OnceValue(func() error {
		for _, ch := range chs {
			ch.Abort() // even if Run is waiting
		}
		child.Kill()
		return errors.Join(more.close(), s.Close())
	})
	if more != nil {
		accepted, err := more.accept(ctx, job.Connections-1)
		chs = append(chs, accepted...)
		if err != nil {
			return nil, errors.Join(err, end())
		}
	}
	if job.Work == RoundTrip {
		return &roundTrips{size: job.Size, close: end, trip: p.trips(chs, job)}, nil
	}
	ch := child.Channel()
	receive, last, ask := p.receiver(ch, job.Size), p.sender(ch), endPayload(job.Size)
	return &stream{job: job, close: end, open: func() (sender, error) { return p.sender(ch), nil },
		report: func() (report, error) {
			if err := last.send(ask); err != nil {
				return report{}, err
			}
			if _, err := last.done(); err != nil {
				return report{}, err
			}
			b, err := receive()
			if err != nil {
				return report{}, err
			}
			return parseReport(b)
		}}, nil
}

// trips returns a function that makes round trips over the channels in turn.
func (p spawnwire) trips(chs []*transport.Channel, job Job) func([]byte) ([]byte, error) {
	type ends struct {
		sender  sender
		receive func() ([]byte, error)
	}
	var all []ends
	for _, ch := range chs {
		all = append(all, ends{p.sender(ch), p.receiver(ch, job.Size)})
	}
	next := 0
	return func(payload []byte) ([]byte, error) {
		e := &all[next]
		if next++; next == len(all) {
			next = 0
		}
		if err := e.sender.send(payload); err != nil {
			return nil, err
		}
		return e.receive()
	}
}

// spawnwireEntry is the entry of the child.
const spawnwireEntry = "peers"

// spawnwireArgs are the arguments of spawnwireEntry.
type spawnwireArgs struct {
	Job  Job
	Peer string
	More transport.Addr // listener for the other channels, if Job has several connections
}

// initSpawnwire runs the entry if this process is a child.
func initSpawnwire() {
	forkspawn.Register(spawnwireEntry, func(ctx context.Context, parent *forkspawn.Parent) error {
		var args spawnwireArgs
		if err := parent.Spec().DecodeArgs(&args); err != nil {
			return err
		}
		p, err := Find(args.Peer)
		if err != nil {
			return err
		}
		return p.(spawnwire).serveAll(ctx, parent.Channel(), args)
	})
	forkspawn.Register(wireEntry, serveWire)
	forkspawn.Init()
}

// Serve returns an error, because the child runs initSpawnwire.
func (spawnwire) Serve(Job, Ready) error {
	return errors.New("it is spawned by the library itself")
}

// serve serves one channel until the other side closes it.
func (p spawnwire) serve(ch *transport.Channel, job Job) error {
	receive, answer := p.receiver(ch, job.Size), p.sender(ch)
	var got report
	for {
		payload, err := receive()
		if err != nil {
			return err
		}
		switch {
		case job.Work == RoundTrip:
			err = answer.send(payload)
		case got.take(payload):
			err = answer.send(got.bytes())
			if err == nil {
				_, err = answer.done()
			}
			got = report{}
		}
		if err != nil {
			return err
		}
	}
}

// serveAll serves the parent's channel and the other channels of the job until the
// parent is done.
func (p spawnwire) serveAll(ctx context.Context, ch *transport.Channel, args spawnwireArgs) error {
	var wg sync.WaitGroup
	chs := []*transport.Channel{ch}
	defer func() {
		for _, ch := range chs {
			ch.Abort()
		}
		wg.Wait()
	}()
	for len(chs) < args.Job.Connections {
		conn, err := uds.Dial(ctx, args.More)
		if err != nil {
			return err
		}
		more := transport.New(conn, transport.Config{})
		chs = append(chs, more)
		wg.Go(func() { p.serve(more, args.Job) })
	}
	defer context.AfterFunc(ctx, func() { ch.Abort() })()
	p.serve(ch, args.Job)
	return nil
}

// moreChannels accepts additional channels from a child. They have no handshake,
// because only their messages are measured.
type moreChannels struct {
	dir *unixsock.Dir
	ln  net.Listener
}

func listenForMore(ctx context.Context) (*moreChannels, error) {
	dir, err := unixsock.NewDir()
	if err != nil {
		return nil, err
	}
	ln, err := uds.Listen(ctx,
		transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("more")})
	if err != nil {
		return nil, errors.Join(err, dir.Remove())
	}
	return &moreChannels{dir, ln}, nil
}

func (m *moreChannels) close() error {
	if m == nil {
		return nil
	}
	m.ln.Close() // accept may have closed it
	return m.dir.Remove()
}

// accept accepts n channels.
func (m *moreChannels) accept(ctx context.Context, n int) (chs []*transport.Channel, err error) {
	defer context.AfterFunc(ctx, func() { m.ln.Close() })()
	for range n {
		conn, err := m.ln.Accept()
		if err != nil {
			return chs, errors.Join(context.Cause(ctx), err)
		}
		chs = append(chs, transport.New(conn, transport.Config{}))
	}
	return chs, nil
}
