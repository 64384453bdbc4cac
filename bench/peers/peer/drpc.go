package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmanager"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcpool"
	"storj.io/drpc/drpcserver"
	"storj.io/drpc/drpcwire"
)

// drpcPeer is Storj's drpc over Unix sockets. A connection has one call at a time, so
// its documentation advises drpcpool: many callers have as many connections. Thus
// it does not do the jobs with many streams of one connection. The limit for
// messages is higher, for those of 16 MiB. Messages and service are the same as for
// gRPC.
type drpcPeer struct{}

func (drpcPeer) Name() string   { return "drpc" }
func (drpcPeer) Module() string { return "storj.io/drpc" }

func (drpcPeer) Does(job Job) bool {
	return job.Network == "unix" && hasUnary(job) && job.Work != Senders
}

var drpcManager = drpcmanager.Options{
	Reader: drpcwire.ReaderOptions{MaximumBufferSize: maxMessage},
}

func (p drpcPeer) Open(ctx context.Context, job Job) (Worker, error) {
	s, err := start(ctx, p, job)
	if err != nil {
		return nil, err
	}
	pool := newDRPCPool(s, job)
	conn := pool.Get(background, s.addr, pool.dial)
	end := sync.OnceValue(func() error {
		pool.Close()
		return s.Close()
	})
	if job.Work != Stream {
		return (&caller{close: end, allocs: allocsOf(s.dir), unary: func() trip {
			return func(payload []byte) ([]byte, error) {
				var reply wrapperspb.BytesValue
				err := conn.Invoke(background, "/bench.Service/Echo", drpcEncoding{},
					&wrapperspb.BytesValue{Value: payload}, &reply)
				return reply.Value, err
			}
		}}).worker(job), nil
	}
	return &stream{job: job, close: end, open: func() (sender, error) {
		s, err := conn.NewStream(background, "/bench.Service/Put", drpcEncoding{})
		return &drpcSender{s, endPayload(job.Size)}, err
	}}, nil
}

// drpcPool is a pool that closes the connections in use, too, so that Close ends
// calls.
type drpcPool struct {
	*drpcpool.Pool[string, drpcpool.Conn]
	server *server
	job    Job

	mu     sync.Mutex // guards the rest
	all    []net.Conn
	closed bool
}

func newDRPCPool(s *server, job Job) *drpcPool {
	return &drpcPool{Pool: drpcpool.New[string, drpcpool.Conn](drpcpool.Options{}), server: s,
		job: job}
}

func (p *drpcPool) dial(ctx context.Context, _ string) (drpcpool.Conn, error) {
	conn, err := p.server.dial(ctx, p.job)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	p.all = append(p.all, conn)
	return drpcconn.NewWithOptions(conn, drpcconn.Options{Manager: drpcManager}), nil
}

func (p *drpcPool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.Pool.Close()
	for _, conn := range p.all {
		conn.Close()
	}
}

func (drpcPeer) Serve(job Job, ready Ready) error {
	mux := drpcmux.New()
	if err := mux.Register(drpcService{}, drpcService{}); err != nil {
		return err
	}
	ln, err := ready.Listen(job)
	if err != nil {
		return err
	}
	server := drpcserver.NewWithOptions(mux, drpcserver.Options{Manager: drpcManager})
	return server.Serve(background, ln) // until the process is killed
}

// drpcEncoding is the one of generated code.
type drpcEncoding struct{}

func (drpcEncoding) Marshal(msg drpc.Message) ([]byte, error) {
	return proto.Marshal(msg.(proto.Message))
}

// MarshalAppend lets drpc encode into its own buffer.
func (drpcEncoding) MarshalAppend(b []byte, msg drpc.Message) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, msg.(proto.Message))
}

func (drpcEncoding) Unmarshal(b []byte, msg drpc.Message) error {
	return proto.Unmarshal(b, msg.(proto.Message))
}

// drpcService is the server, with the description that protoc-gen-go-drpc generates.
type drpcService struct{}

func (drpcService) echo(_ context.Context, in *wrapperspb.BytesValue) (
	*wrapperspb.BytesValue, error,
) {
	return in, nil
}

func (drpcService) put(s drpc.Stream) error {
	var got report
	for {
		in := new(wrapperspb.BytesValue)
		if err := s.MsgRecv(in, drpcEncoding{}); err != nil {
			return untilClosed(err)
		}
		if !got.take(in.Value) {
			continue
		}
		if err := s.MsgSend(&wrapperspb.BytesValue{Value: got.bytes()}, drpcEncoding{}); err != nil {
			return err
		}
		got = report{}
	}
}

func (drpcService) NumMethods() int { return 2 }

func (drpcService) Method(n int) (
	name string, enc drpc.Encoding, receiver drpc.Receiver, method any, ok bool,
) {
	switch n {
	case 0:
		return "/bench.Service/Echo", drpcEncoding{},
			func(srv any, ctx context.Context, in, _ any) (drpc.Message, error) {
				return srv.(drpcService).echo(ctx, in.(*wrapperspb.BytesValue))
			}, drpcService.echo, true
	case 1:
		return "/bench.Service/Put", drpcEncoding{},
			func(srv any, _ context.Context, in, _ any) (drpc.Message, error) {
				return nil, srv.(drpcService).put(in.(drpc.Stream))
			}, drpcService.put, true
	}
	return "", nil, nil, nil, false
}

// drpcSender is one call of Put. MsgSend has encoded the message when it returns.
type drpcSender struct {
	s   drpc.Stream
	end []byte // requests the report
}

func (d *drpcSender) send(payload []byte) error {
	return d.s.MsgSend(&wrapperspb.BytesValue{Value: payload}, drpcEncoding{})
}

func (d *drpcSender) done() (report, error) {
	if err := d.send(d.end); err != nil {
		return report{}, err
	}
	var reply wrapperspb.BytesValue
	if err := d.s.MsgRecv(&reply, drpcEncoding{}); err != nil {
		return report{}, errors.Join(errors.New("the report"), fmt.Errorf("drpc: %w", err))
	}
	return parseReport(reply.Value)
}
