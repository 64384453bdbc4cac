package peer

import (
	"context"
	"net/rpc"
)

// netRPC is the standard library's net/rpc with its default codec (gob), one client
// and one connection. Round trips use Call. A stream uses the asynchronous Go with
// up to pendingCalls at a time, because Call would wait for each message. A
// message has arrived when its call is done.
type netRPC struct{}

// pendingCalls is the number of concurrent calls of a sender.
const pendingCalls = 128

func (netRPC) Name() string      { return "net/rpc" }
func (netRPC) Module() string    { return "" }
func (netRPC) Does(job Job) bool { return job.Network == "unix" && hasUnary(job) }

func (p netRPC) Open(ctx context.Context, job Job) (Worker, error) {
	s, conn, err := open(ctx, p, job)
	if err != nil {
		return nil, err
	}
	client := rpc.NewClient(conn)
	return rpcWorker(client, "Service", job, s.dir, closer(client, s)), nil
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
	server.ServeConn(conn) // until the caller closes the connection
	return nil
}

// RPCMessage is a message of net/rpc.
type RPCMessage struct {
	ID   uint64
	Body []byte
}

// RPCNothing is an empty argument or result.
type RPCNothing struct{}

// RPCService is the server. It and its types are exported because net/rpc requires
// that.
type RPCService struct{ got tally }

// Echo returns its argument.
func (*RPCService) Echo(args *RPCMessage, reply *RPCMessage) error {
	*reply = *args
	return nil
}

// Put takes a message of a stream.
func (s *RPCService) Put(args *RPCMessage, _ *RPCNothing) error {
	s.got.add(args.Body)
	return nil
}

// Report returns what Put has received since the last Report.
func (s *RPCService) Report(_ *RPCNothing, reply *RPCMessage) error {
	reply.Body = s.got.take().bytes()
	return nil
}

// hasUnary reports whether unary calls are enough for the job.
func hasUnary(job Job) bool { return job.Work != Unread && job.Work != Cancel }

// rpcWorker returns the caller's side of RPCService, registered as service. dir is
// the other process's.
func rpcWorker(client *rpc.Client, service string, job Job, dir string, end func() error) Worker {
	if job.Work != Stream && job.Work != Senders {
		return (&caller{close: end, allocs: allocsOf(dir), unary: func() trip {
			var args, reply RPCMessage // gob decodes into the capacity of the last reply
			return func(payload []byte) ([]byte, error) {
				args.ID, args.Body = args.ID+1, payload
				err := client.Call(service+".Echo", &args, &reply)
				return reply.Body, err
			}
		}}).worker(job)
	}
	open := func() (sender, error) {
		return &rpcSender{client: client, method: service + ".Put",
			calls: make(chan *rpc.Call, pendingCalls)}, nil
	}
	return &stream{job: job, open: open, close: end, report: func() (report, error) {
		var reply RPCMessage
		if err := client.Call(service+".Report", &RPCNothing{}, &reply); err != nil {
			return report{}, err
		}
		return parseReport(reply.Body)
	}}
}

// rpcSender keeps up to cap(calls) calls pending.
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
	s.client.Go(s.method, &s.args, &s.nothing, s.calls) // has encoded the arguments when it returns
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
