package peer

import (
	"context"
	"net/rpc"
)

// netRPC is the standard library's net/rpc with its own codec (gob), one client and one connection. Round trips are
// Call. A stream is Go, the asynchronous call that its documentation has, with up to pendingCalls under way, as a Call for each
// message would wait for each: the message has arrived when its call is done.
type netRPC struct{}

// pendingCalls is how many calls a sender of a stream has under way.
const pendingCalls = 128

func (netRPC) Name() string      { return "net/rpc" }
func (netRPC) Module() string    { return "" }
func (netRPC) Does(job Job) bool { return job.Network == "unix" }

func (p netRPC) Open(ctx context.Context, job Job) (Worker, error) {
	s, conn, err := open(ctx, p, job)
	if err != nil {
		return nil, err
	}
	client := rpc.NewClient(conn)
	return rpcWorker(client, "Service", job, closer(client, s)), nil
}

func (netRPC) Serve(job Job, ready Ready) error {
	server := rpc.NewServer()
	if err := server.RegisterName("Service", &RPCService{}); err != nil {
		return err
	}
	conn, err := ready.Accept(job)
	if err != nil {
		return err
	}
	server.ServeConn(conn) // until the caller hangs up
	return nil
}

// RPCMessage is what net/rpc carries.
type RPCMessage struct {
	ID   uint64
	Body []byte
}

// RPCNothing is an argument or a result that says nothing.
type RPCNothing struct{}

// RPCService is the other side of net/rpc. It and its types are exported as net/rpc demands.
type RPCService struct{ got tally }

// Echo gives back what it gets.
func (*RPCService) Echo(args *RPCMessage, reply *RPCMessage) error {
	*reply = *args
	return nil
}

// Put takes a message of a stream.
func (s *RPCService) Put(args *RPCMessage, _ *RPCNothing) error {
	s.got.add(args.Body)
	return nil
}

// Report says what Put has got since the last Report.
func (s *RPCService) Report(_ *RPCNothing, reply *RPCMessage) error {
	reply.Body = s.got.take().bytes()
	return nil
}

// rpcWorker is the caller's side of RPCService, registered under a name.
func rpcWorker(client *rpc.Client, service string, job Job, end func() error) Worker {
	if job.Work == RoundTrip {
		var args, reply RPCMessage // gob decodes into the capacity that the last reply had
		return &roundTrips{size: job.Size, close: end, trip: func(payload []byte) ([]byte, error) {
			args.ID, args.Body = args.ID+1, payload
			err := client.Call(service+".Echo", &args, &reply)
			return reply.Body, err
		}}
	}
	open := func() (sender, error) {
		return &rpcSender{client: client, method: service + ".Put", calls: make(chan *rpc.Call, pendingCalls)}, nil
	}
	return &stream{job: job, open: open, close: end, report: func() (report, error) {
		var reply RPCMessage
		if err := client.Call(service+".Report", &RPCNothing{}, &reply); err != nil {
			return report{}, err
		}
		return parseReport(reply.Body)
	}}
}

// rpcSender keeps calls under way.
type rpcSender struct {
	client  *rpc.Client
	method  string
	calls   chan *rpc.Call
	pending int
	args    RPCMessage
	nothing RPCNothing
}

func (s *rpcSender) send(payload []byte) error {
	if s.pending == cap(s.calls) {
		if err := s.wait(); err != nil {
			return err
		}
	}
	s.args.ID, s.args.Body = s.args.ID+1, payload
	s.client.Go(s.method, &s.args, &s.nothing, s.calls) // it is encoded when Go returns
	s.pending++
	return nil
}

func (s *rpcSender) wait() error {
	s.pending--
	return (<-s.calls).Error
}

func (s *rpcSender) done() (report, error) {
	for s.pending > 0 {
		if err := s.wait(); err != nil {
			return report{}, err
		}
	}
	return report{}, nil
}
