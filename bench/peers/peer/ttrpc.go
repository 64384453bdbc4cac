package peer

import (
	"context"
	"errors"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ttrpcPeer is containerd's ttrpc over a Unix socket, with one client as in its
// example. A round trip is a unary call, and each sender has one long-lived
// bidirectional stream. There are no settings for buffers or windows, and the
// message limit is fixed at 4 MiB. Messages and service are the same as for gRPC.
type ttrpcPeer struct{}

func (ttrpcPeer) Name() string   { return "ttrpc" }
func (ttrpcPeer) Module() string { return "github.com/containerd/ttrpc" }
func (ttrpcPeer) Does(job Job) bool {
	return job.Network == "unix" && job.Work != Cancel && job.Work != Beside
}

const ttrpcName = "bench.Service"

func (p ttrpcPeer) Open(ctx context.Context, job Job) (Worker, error) {
	s, conn, err := open(ctx, p, job)
	if err != nil {
		return nil, err
	}
	if err := log.SetLevel("panic"); err != nil { // its log would cost time
		return nil, errors.Join(err, conn.Close(), s.Close())
	}
	client := ttrpc.NewClient(conn)
	ctx = background
	if job.Work != Stream && job.Work != Senders {
		return (&caller{close: closer(client, s), allocs: allocsOf(s.dir),
			down: func() (*down, error) { return ttrpcDown(client) },
			unary: func() trip {
				return func(payload []byte) ([]byte, error) {
					var reply wrapperspb.BytesValue
					err := client.Call(ctx, ttrpcName, "Echo",
						&wrapperspb.BytesValue{Value: payload}, &reply)
					return reply.Value, err
				}
			}}).worker(job), nil
	}
	return &stream{job: job, close: closer(client, s), open: func() (sender, error) {
		s, err := client.NewStream(ctx,
			&ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}, ttrpcName, "Put", nil)
		return &ttrpcSender{s, endPayload(job.Size)}, err
	}}, nil
}

func (ttrpcPeer) Serve(job Job, ready Ready) error {
	server, err := ttrpc.NewServer()
	if err = errors.Join(err, log.SetLevel("panic")); err != nil {
		return err
	}
	server.RegisterService(ttrpcName, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{"Echo": func(_ context.Context,
			unmarshal func(any) error) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := unmarshal(in); err != nil {
				return nil, err
			}
			return in, nil
		}},
		Streams: map[string]ttrpc.Stream{
			"Put":  {StreamingClient: true, StreamingServer: true, Handler: ttrpcPut},
			"Down": {StreamingClient: true, StreamingServer: true, Handler: ttrpcProduce},
		},
	})
	ln, err := ready.Listen(job)
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), ln) // until the process is killed
}

func ttrpcPut(_ context.Context, s ttrpc.StreamServer) (any, error) {
	var got report
	for {
		in := new(wrapperspb.BytesValue)
		if err := s.RecvMsg(in); err != nil {
			return nil, untilClosed(err)
		}
		if !got.take(in.Value) {
			continue
		}
		if err := s.SendMsg(&wrapperspb.BytesValue{Value: got.bytes()}); err != nil {
			return nil, err
		}
		got = report{}
	}
}

func ttrpcDown(client *ttrpc.Client) (*down, error) {
	ctx, cancel := context.WithCancel(background)
	s, err := client.NewStream(ctx,
		&ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}, ttrpcName, "Down", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	return &down{
		ask: func(payload []byte) error {
			return s.SendMsg(&wrapperspb.BytesValue{Value: payload})
		},
		next: func() ([]byte, error) { return grpcReceive(s) },
		end:  cancel,
	}, nil
}

func ttrpcProduce(_ context.Context, s ttrpc.StreamServer) (any, error) {
	return nil, produce(func() ([]byte, error) { return grpcReceive(s) },
		func(p []byte) error { return s.SendMsg(&wrapperspb.BytesValue{Value: p}) })
}

// ttrpcSender is one call of Put. SendMsg has encoded the message when it returns.
type ttrpcSender struct {
	s   ttrpc.ClientStream
	end []byte // requests the report
}

func (t *ttrpcSender) send(payload []byte) error {
	return t.s.SendMsg(&wrapperspb.BytesValue{Value: payload})
}

func (t *ttrpcSender) done() (report, error) {
	var reply wrapperspb.BytesValue
	if err := t.send(t.end); err != nil {
		return report{}, err
	}
	if err := t.s.RecvMsg(&reply); err != nil {
		return report{}, err
	}
	return parseReport(reply.Value)
}
