package peer

import (
	"context"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ttrpcPeer is containerd's ttrpc over a Unix socket: a unary call for each round trip, one long-lived bidirectional stream
// for each sender of messages, one client for all, as in its example. It has no settings of buffers or windows; its limit of a
// message is 4 MiB and fixed. Messages and service are those of gRPC here; its own generator would make the same description.
type ttrpcPeer struct{}

func (ttrpcPeer) Name() string      { return "ttrpc" }
func (ttrpcPeer) Module() string    { return "github.com/containerd/ttrpc" }
func (ttrpcPeer) Does(job Job) bool { return job.Network == "unix" }

const ttrpcName = "bench.Service"

func (p ttrpcPeer) Open(ctx context.Context, job Job) (Worker, error) {
	s, conn, err := open(ctx, p, job)
	if err != nil {
		return nil, err
	}
	client := ttrpc.NewClient(conn)
	ctx = context.Background() // Worker.Close ends every call
	if job.Work == RoundTrip {
		return &roundTrips{size: job.Size, close: closer(client, s), trip: func(payload []byte) ([]byte, error) {
			var reply wrapperspb.BytesValue
			err := client.Call(ctx, ttrpcName, "Echo", &wrapperspb.BytesValue{Value: payload}, &reply)
			return reply.Value, err
		}}, nil
	}
	return &stream{job: job, close: closer(client, s), open: func() (sender, error) {
		s, err := client.NewStream(ctx, &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}, ttrpcName, "Put", nil)
		return &ttrpcSender{s, endPayload(job.Size)}, err
	}}, nil
}

func (ttrpcPeer) Serve(job Job, ready Ready) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.RegisterService(ttrpcName, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{"Echo": func(_ context.Context, unmarshal func(any) error) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := unmarshal(in); err != nil {
				return nil, err
			}
			return in, nil
		}},
		Streams: map[string]ttrpc.Stream{"Put": {StreamingClient: true, StreamingServer: true, Handler: ttrpcPut}},
	})
	ln, err := ready.Listen(job)
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), ln) // until the process is ended
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

// ttrpcSender is one call of Put. A message is encoded when SendMsg returns.
type ttrpcSender struct {
	s   ttrpc.ClientStream
	end []byte // asks for the report
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
