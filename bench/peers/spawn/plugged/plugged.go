// Package plugged is the plugin for measuring starts with go-plugin. Its only call
// returns the start time of the child's main. Parent and child share the package,
// as in go-plugin's documentation.
package plugged

import (
	"context"
	"net/rpc"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Modes of go-plugin.
const (
	NetRPC = "net/rpc"
	GRPC   = "grpc"
)

// Handshake is the cookie of both sides.
var Handshake = plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PEERS_PLUGIN",
	MagicCookieValue: "spawn"}

// Name is the name of the plugin.
const Name = "clock"

// Clock is the interface of the plugin.
type Clock interface {
	// Began returns the start time of the plugin's main, in ns since 1970.
	Began() (int64, error)
}

// Plugins returns the plugin in a mode. began is the answer of Began; the parent
// may pass any value.
func Plugins(mode string, began time.Time) plugin.PluginSet {
	if mode == GRPC {
		return plugin.PluginSet{Name: grpcPlugin{began: began}}
	}
	return plugin.PluginSet{Name: rpcPlugin{began}}
}

// Serve serves the plugin in the child. It returns when the parent stops it.
func Serve(mode string, began time.Time) {
	go exitWithParent(os.Getppid())
	cfg := &plugin.ServeConfig{HandshakeConfig: Handshake, Plugins: Plugins(mode, began),
		Logger: hclog.NewNullLogger()}
	if mode == GRPC {
		cfg.GRPCServer = plugin.DefaultGRPCServer
	}
	plugin.Serve(cfg)
}

// exitWithParent exits when the parent has ended. go-plugin itself does not do
// that.
func exitWithParent(parent int) {
	for os.Getppid() == parent {
		time.Sleep(250 * time.Millisecond)
	}
	os.Exit(125)
}

type rpcPlugin struct{ began time.Time }

func (p rpcPlugin) Server(*plugin.MuxBroker) (any, error) { return &RPCServer{p.began}, nil }
func (rpcPlugin) Client(_ *plugin.MuxBroker, c *rpc.Client) (any, error) {
	return rpcClock{c}, nil
}

// RPCServer is exported because net/rpc requires that.
type RPCServer struct{ began time.Time }

// Began implements the call of Clock.
func (s *RPCServer) Began(_ struct{}, ns *int64) error {
	*ns = s.began.UnixNano()
	return nil
}

type rpcClock struct{ c *rpc.Client }

func (r rpcClock) Began() (ns int64, err error) {
	err = r.c.Call("Plugin.Began", struct{}{}, &ns)
	return ns, err
}

type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	began time.Time
}

func (p grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Clock", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Began",
			Handler: func(_ any, _ context.Context, dec func(any) error,
				_ grpc.UnaryServerInterceptor) (any, error) {
				return wrapperspb.Int64(p.began.UnixNano()), dec(&emptypb.Empty{})
			},
		}},
	}, nil)
	return nil
}

func (grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker,
	c *grpc.ClientConn) (any, error) {
	return grpcClock{c}, nil
}

type grpcClock struct{ c *grpc.ClientConn }

func (g grpcClock) Began() (int64, error) {
	var ns wrapperspb.Int64Value
	err := g.c.Invoke(context.Background(), "/bench.Clock/Began", &emptypb.Empty{}, &ns)
	return ns.Value, err
}
