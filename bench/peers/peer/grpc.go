package peer

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grpcUnary is gRPC over a Unix socket, a unary call for each round trip, and one long-lived bidirectional stream for each
// sender of messages, as its performance guide advises for those. One ClientConn is shared by all, as the same
// guide says; credentials are "insecure", as is usual within a machine. Buffers and flow control are gRPC's own
// defaults, which adapt; the limit of a message is raised to make room for 1 MiB and more. Messages are
// google.protobuf.BytesValue, which is what protoc would make of a message with one field of bytes, and the service is described by hand
// just as protoc would.
type grpcUnary struct{}

func (grpcUnary) Name() string      { return "grpc" }
func (grpcUnary) Module() string    { return "google.golang.org/grpc" }
func (grpcUnary) Does(job Job) bool { return job.Network == "unix" }

func (p grpcUnary) Open(ctx context.Context, job Job) (Worker, error) {
	return openGRPC(ctx, p, job, false)
}

func (grpcUnary) Serve(job Job, ready Ready) error { return serveGRPC(job, ready) }

// grpcStream is gRPC with the round trips over one long-lived bidirectional stream: cheaper than a call for each, for
// programs that can be written so.
type grpcStream struct{}

func (grpcStream) Name() string      { return "grpc, one bidi stream" }
func (grpcStream) Module() string    { return grpcUnary{}.Module() }
func (grpcStream) Does(job Job) bool { return job.Network == "unix" && job.Work == RoundTrip }

func (p grpcStream) Open(ctx context.Context, job Job) (Worker, error) {
	return openGRPC(ctx, p, job, true)
}

func (grpcStream) Serve(job Job, ready Ready) error { return serveGRPC(job, ready) }

// maxMessage is the limit of a message for the peers that have a smaller one by default, in bytes.
const maxMessage = 16 << 20

func openGRPC(ctx context.Context, p Peer, job Job, bidi bool) (Worker, error) {
	s, err := start(ctx, p, job)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix:"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	w, err := grpcWorker(conn, job, bidi, closer(conn, s))
	if err != nil {
		return nil, errors.Join(err, conn.Close(), s.Close())
	}
	return w, nil
}

func serveGRPC(job Job, ready Ready) error {
	ln, err := ready.Listen(job)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	server.RegisterService(&grpcService, nil)
	return server.Serve(ln) // until the process is ended
}

// grpcWorker is the caller's side of grpcService.
func grpcWorker(conn *grpc.ClientConn, job Job, bidi bool, end func() error) (Worker, error) {
	ctx := context.Background() // Worker.Close ends every call
	if job.Work != RoundTrip {
		return &stream{job: job, close: end, open: func() (sender, error) {
			s, err := conn.NewStream(ctx, &grpcService.Streams[0], "/bench.Service/Put")
			return &grpcSender{s, endPayload(job.Size)}, err
		}}, nil
	}
	if !bidi {
		return &roundTrips{size: job.Size, close: end, trip: func(payload []byte) ([]byte, error) {
			var reply wrapperspb.BytesValue
			err := conn.Invoke(ctx, "/bench.Service/Echo", &wrapperspb.BytesValue{Value: payload}, &reply)
			return reply.Value, err
		}}, nil
	}
	s, err := conn.NewStream(ctx, &grpcService.Streams[1], "/bench.Service/EchoAll")
	if err != nil {
		return nil, err
	}
	return &roundTrips{size: job.Size, close: end, trip: func(payload []byte) ([]byte, error) {
		if err := s.SendMsg(&wrapperspb.BytesValue{Value: payload}); err != nil {
			return nil, err
		}
		var reply wrapperspb.BytesValue
		err := s.RecvMsg(&reply)
		return reply.Value, err
	}}, nil
}

// grpcSender is one call of Put.
type grpcSender struct {
	s   grpc.ClientStream
	end []byte // asks for the report
}

// send: the message is encoded when SendMsg returns; only tracing and statistics, which are not there, would look
// at it later.
func (g *grpcSender) send(payload []byte) error {
	err := g.s.SendMsg(&wrapperspb.BytesValue{Value: payload})
	if err == io.EOF { // the call has failed; RecvMsg knows why
		err = g.s.RecvMsg(&wrapperspb.BytesValue{})
	}
	return err
}

func (g *grpcSender) done() (report, error) {
	if err := g.send(g.end); err != nil {
		return report{}, err
	}
	var reply wrapperspb.BytesValue
	if err := g.s.RecvMsg(&reply); err != nil {
		return report{}, err
	}
	return parseReport(reply.Value)
}

// grpcService is what protoc makes of
//
//	service Service {
//	  rpc Echo(google.protobuf.BytesValue) returns (google.protobuf.BytesValue);
//	  rpc Put(stream google.protobuf.BytesValue) returns (stream google.protobuf.BytesValue); // reports
//	  rpc EchoAll(stream google.protobuf.BytesValue) returns (stream google.protobuf.BytesValue);
//	}
var grpcService = grpc.ServiceDesc{
	ServiceName: "bench.Service",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			return in, nil
		},
	}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Put", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var got report
			for {
				in := new(wrapperspb.BytesValue)
				if err := s.RecvMsg(in); err != nil {
					return untilClosed(err)
				}
				if !got.take(in.Value) {
					continue
				}
				if err := s.SendMsg(&wrapperspb.BytesValue{Value: got.bytes()}); err != nil {
					return err
				}
				got = report{}
			}
		}},
		{StreamName: "EchoAll", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := new(wrapperspb.BytesValue)
				if err := s.RecvMsg(in); err != nil {
					return untilClosed(err)
				}
				if err := s.SendMsg(in); err != nil {
					return err
				}
			}
		}},
	},
}
