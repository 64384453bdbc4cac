package peer

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// spawnwire is this library, as its README has it: the other process is a child that it spawned, and the connection is
// the child's channel, with its handshake behind it. Raw bytes are received into the caller's buffer, or borrowed; typed
// messages are a struct of two fields in CBOR, with a field of bytes that is fresh memory for each message, or with one of
// transport.Bytes, which is received into the same value again. A batched stream has a transport.Batch.
type spawnwire struct{ typed, reused, borrowed, batched bool }

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
	return name
}

func (p spawnwire) Module() string { return "github.com/spawnwire/spawnwire" }

// Does: a batch is one goroutine's, and an answer that is waited for needs no batch.
func (p spawnwire) Does(job Job) bool { return !p.batched || job.Work == Stream }

// message is what a typed channel carries.
type message struct {
	ID   uint64 `cbor:"1,keyasint"`
	Body []byte `cbor:"2,keyasint"`
}

// messageReused is message for a receiver that uses the same value again.
type messageReused struct {
	ID   uint64          `cbor:"1,keyasint"`
	Body transport.Bytes `cbor:"2,keyasint"`
}

// The senders and receivers take a context that cannot end, as the floor has none.

// sender returns what one goroutine sends payloads with.
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

// receiver returns what payloads of up to that size are received with; what it returns is good until the next.
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
	var cfg forkspawn.Config
	if job.Network == "tcp" {
		cfg.Listen = transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}
	}
	s, err := forkspawn.New(cfg)
	if err != nil {
		return nil, err
	}
	args := spawnwireArgs{Job: job, Peer: p.Name()}
	var more *moreChannels // or nil, whose close does nothing
	if job.Connections > 1 {
		if more, err = listenForMore(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		args.More = more.dir.Addr("more")
	}
	child, err := s.Spawn(ctx, spawnspec.Spec{Name: p.Name(), Entry: spawnwireEntry, Args: args})
	if err != nil {
		return nil, errors.Join(err, more.close(), s.Close())
	}
	chs := []*transport.Channel{child.Channel()}
	end := sync.OnceValue(func() error {
		for _, ch := range chs {
			ch.Abort() // also under a Run that waits
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
	return &stream{job: job, close: end, open: func() (sender, error) { return p.sender(ch), nil }, report: func() (report, error) {
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

// trips makes round trips over the channels in turn.
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

// spawnwireEntry is the other process's entry.
const spawnwireEntry = "peers"

// spawnwireArgs are the other process's orders.
type spawnwireArgs struct {
	Job  Job
	Peer string
	More transport.Addr // where it opens the connections beside its own, if Job has more than one
}

// initSpawnwire makes this process the child if it was spawned as one.
func initSpawnwire() {
	forkspawn.Register(spawnwireEntry, func(ctx context.Context, parent *forkspawn.Parent) error {
		var args spawnwireArgs
		if err := parent.Spec.DecodeArgs(&args); err != nil {
			return err
		}
		p, err := Find(args.Peer)
		if err != nil {
			return err
		}
		return p.(spawnwire).serveAll(ctx, parent.Channel(), args)
	})
	forkspawn.Init()
}

// Serve: the other process has come through initSpawnwire.
func (spawnwire) Serve(Job, Ready) error { return errors.New("it is spawned by the library itself") }

// serve returns when the other side has ended the channel.
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

// serveAll serves the parent's channel, and the others that the job may have, until the parent is done.
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

// moreChannels is where a child opens channels beside its own. They have no handshake: their messages are what is measured.
type moreChannels struct {
	dir *uds.Dir
	ln  net.Listener
}

func listenForMore(ctx context.Context) (*moreChannels, error) {
	dir, err := uds.NewDir()
	if err != nil {
		return nil, err
	}
	ln, err := uds.Listen(ctx, dir.Addr("more"))
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

// accept waits for n channels, or the end of ctx.
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
