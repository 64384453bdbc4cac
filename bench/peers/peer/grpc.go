package peer

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grpcUnary is gRPC over a Unix socket. Each round trip is a unary call, and each
// sender of a stream has one long-lived bidirectional stream. All share one
// ClientConn. Both follow gRPC's performance guide. Credentials are "insecure", as
// usual within a machine. Buffers and flow control have their adaptive defaults;
// only the message limit is higher, for messages of 16 MiB.
//
// Messages are google.protobuf.BytesValue, the same as a generated message with
// one bytes field. The service description is the one that protoc would generate.
type grpcUnary struct{}

func (grpcUnary) Name() string      { return "grpc" }
func (grpcUnary) Module() string    { return "google.golang.org/grpc" }
func (grpcUnary) Does(job Job) bool { return job.Network == "unix" && job.Work != Cancel }

func (p grpcUnary) Open(ctx context.Context, job Job) (Worker, error) {
	return openGRPC(ctx, p, job, false)
}

func (grpcUnary) Serve(job Job, ready Ready) error { return serveGRPC(job, ready) }

// grpcStream is gRPC with all round trips on one long-lived bidirectional stream.
// That is cheaper than one call for each.
type grpcStream struct{}

func (grpcStream) Name() string      { return "grpc, one bidi stream" }
func (grpcStream) Module() string    { return grpcUnary{}.Module() }
func (grpcStream) Does(job Job) bool { return job.Network == "unix" && job.Work == RoundTrip }

func (p grpcStream) Open(ctx context.Context, job Job) (Worker, error) {
	return openGRPC(ctx, p, job, true)
}

func (grpcStream) Serve(job Job, ready Ready) error { return serveGRPC(job, ready) }

// maxMessage is the message limit, in bytes, for peers with a lower default.
const maxMessage = MaxLarge + 1<<10

func openGRPC(ctx context.Context, p Peer, job Job, bidi bool) (Worker, error) {
	s, err := start(ctx, p, job)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix:"+s.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage),
			grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	w, err := grpcWorker(conn, job, bidi, s.dir, closer(conn, s))
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
	return server.Serve(ln) // until the process is killed
}

// grpcWorker returns the caller's side of grpcService. dir is the other process's.
func grpcWorker(
	conn *grpc.ClientConn, job Job, bidi bool, dir string, end func() error,
) (Worker, error) {
	ctx := background
	if job.Work == Stream || job.Work == Senders {
		return &stream{job: job, close: end, open: func() (sender, error) {
			s, err := conn.NewStream(ctx, &grpcService.Streams[0], "/bench.Service/Put")
			return &grpcSender{s, endPayload(job.Size)}, err
		}}, nil
	}
	if !bidi {
		return (&caller{close: end, allocs: allocsOf(dir),
			down: func() (*down, error) { return grpcDown(conn) },
			unary: func() trip {
				return func(payload []byte) ([]byte, error) {
					var reply wrapperspb.BytesValue
					err := conn.Invoke(ctx, "/bench.Service/Echo",
						&wrapperspb.BytesValue{Value: payload}, &reply)
					return reply.Value, err
				}
			}}).worker(job), nil
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

func grpcDown(conn *grpc.ClientConn) (*down, error) {
	ctx, cancel := context.WithCancel(background)
	s, err := conn.NewStream(ctx, &grpcService.Streams[2], "/bench.Service/Down")
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

// grpcReceive receives a message from a stream of either side.
func grpcReceive(s interface{ RecvMsg(any) error }) ([]byte, error) {
	var m wrapperspb.BytesValue
	err := s.RecvMsg(&m)
	return m.Value, err
}

// grpcSender is one call of Put.
type grpcSender struct {
	s   grpc.ClientStream
	end []byte // requests the report
}

// send may be called again with the same payload, because SendMsg has encoded the
// message when it returns. Only tracing and statistics would read it later, and
// both are off.
func (g *grpcSender) send(payload []byte) error {
	err := g.s.SendMsg(&wrapperspb.BytesValue{Value: payload})
	if err == io.EOF { // the call has failed; RecvMsg returns the reason
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

// grpcService is the description that protoc generates for
//
//	service Service {
//	  rpc Echo(google.protobuf.BytesValue) returns (google.protobuf.BytesValue);
//	  rpc Put(stream google.protobuf.BytesValue) returns (stream google.protobuf.BytesValue);
//	  rpc EchoAll(stream google.protobuf.BytesValue) returns (stream google.protobuf.BytesValue);
//	  rpc Down(stream google.protobuf.BytesValue) returns (stream google.protobuf.BytesValue);
//	}
var grpcService = grpc.ServiceDesc{
	ServiceName: "bench.Service",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, dec func(any) error,
			_ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			return in, nil
		},
	}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Put", ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error {
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
		{StreamName: "EchoAll", ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error {
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
		{StreamName: "Down", ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, s grpc.ServerStream) error {
				return produce(func() ([]byte, error) { return grpcReceive(s) },
					func(p []byte) error { return s.SendMsg(&wrapperspb.BytesValue{Value: p}) })
			}},
	},
}
