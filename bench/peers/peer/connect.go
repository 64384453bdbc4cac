package peer

import (
	"context"
	"net"
	"net/http"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// connectPeer is Connect with its own protocol over HTTP/2 without TLS, as its
// documentation shows it for services behind one another. So all calls share one
// connection. Compression is off, because it costs time within a machine. The
// server's limit for streams is higher, for Unread. Messages and service are the
// same as for gRPC.
type connectPeer struct{}

func (connectPeer) Name() string   { return "connect" }
func (connectPeer) Module() string { return "connectrpc.com/connect" }

func (connectPeer) Does(job Job) bool { return grpcUnary{}.Does(job) }

// connectURL is the prefix of all URLs. The transport dials the socket in any case.
const connectURL = "http://peer"

func connectProtocols() *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p
}

type bytesValue = wrapperspb.BytesValue

func connectClient(client *http.Client, method string) *connect.Client[bytesValue, bytesValue] {
	return connect.NewClient[bytesValue, bytesValue](client, connectURL+method,
		connect.WithAcceptCompression("gzip", nil, nil))
}

func (p connectPeer) Open(ctx context.Context, job Job) (Worker, error) {
	s, err := start(ctx, p, job)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var conns connections
	transport := &http.Transport{Protocols: connectProtocols(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := s.dial(ctx, job)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				conns = append(conns, conn)
			}
			return conn, err
		}}
	end := sync.OnceValue(func() error {
		mu.Lock()
		conns.Close()
		mu.Unlock()
		err := s.Close()
		transport.CloseIdleConnections()
		return err
	})
	client := &http.Client{Transport: transport}
	if job.Work == Stream || job.Work == Senders {
		put := connectClient(client, "/bench.Service/Put")
		return &stream{job: job, close: end, open: func() (sender, error) {
			return &connectSender{put.CallBidiStream(background), endPayload(job.Size)}, nil
		}}, nil
	}
	echo, stream := connectClient(client, "/bench.Service/Echo"),
		connectClient(client, "/bench.Service/Down")
	return (&caller{close: end, allocs: allocsOf(s.dir),
		unary: func() trip {
			return func(payload []byte) ([]byte, error) {
				reply, err := echo.CallUnary(background,
					connect.NewRequest(&bytesValue{Value: payload}))
				if err != nil {
					return nil, err
				}
				return reply.Msg.Value, nil
			}
		},
		down: func() (*down, error) { return connectDown(stream), nil },
	}).worker(job), nil
}

func connectDown(client *connect.Client[bytesValue, bytesValue]) *down {
	ctx, cancel := context.WithCancel(background)
	s := client.CallBidiStream(ctx)
	return &down{
		ask: func(payload []byte) error { return s.Send(&bytesValue{Value: payload}) },
		next: func() ([]byte, error) {
			m, err := s.Receive()
			if err != nil {
				return nil, err
			}
			return m.Value, nil
		},
		end: func() {
			cancel()
			s.CloseRequest()
			s.CloseResponse()
		},
	}
}

func (connectPeer) Serve(job Job, ready Ready) error {
	ln, err := ready.Listen(job)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/bench.Service/Echo", connect.NewUnaryHandler("/bench.Service/Echo",
		func(_ context.Context, in *connect.Request[bytesValue]) (
			*connect.Response[bytesValue], error,
		) {
			return connect.NewResponse(in.Msg), nil
		}))
	mux.Handle("/bench.Service/Put", connect.NewBidiStreamHandler("/bench.Service/Put",
		func(_ context.Context, s *connect.BidiStream[bytesValue, bytesValue]) error {
			var got report
			for {
				in, err := s.Receive()
				if err != nil {
					return untilClosed(err)
				}
				if !got.take(in.Value) {
					continue
				}
				if err := s.Send(&bytesValue{Value: got.bytes()}); err != nil {
					return err
				}
				got = report{}
			}
		}))
	mux.Handle("/bench.Service/Down", connect.NewBidiStreamHandler("/bench.Service/Down",
		func(_ context.Context, s *connect.BidiStream[bytesValue, bytesValue]) error {
			return produce(func() ([]byte, error) {
				in, err := s.Receive()
				if err != nil {
					return nil, err
				}
				return in.Value, nil
			}, func(p []byte) error { return s.Send(&bytesValue{Value: p}) })
		}))
	server := &http.Server{Handler: mux, Protocols: connectProtocols(),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 2 * Streams}}
	return server.Serve(ln) // until the process is killed
}

// connectSender is one call of Put. Send has encoded the message when it returns.
type connectSender struct {
	s   *connect.BidiStreamForClient[bytesValue, bytesValue]
	end []byte // requests the report
}

func (c *connectSender) send(payload []byte) error {
	err := c.s.Send(&bytesValue{Value: payload})
	if err != nil {
		if _, why := c.s.Receive(); why != nil {
			err = why
		}
	}
	return err
}

func (c *connectSender) done() (report, error) {
	if err := c.send(c.end); err != nil {
		return report{}, err
	}
	reply, err := c.s.Receive()
	if err != nil {
		return report{}, err
	}
	return parseReport(reply.Value)
}
