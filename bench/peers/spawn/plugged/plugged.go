// Package plugged is the plugin that spawns of go-plugin are measured with: one call that says when the child's main
// began. Parent and child share it, as go-plugin's documentation has it.
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

// The modes.
const (
	NetRPC = "net/rpc"
	GRPC   = "grpc"
)

// Handshake is what both sides have in common.
var Handshake = plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PEERS_PLUGIN", MagicCookieValue: "spawn"}

// Name is the plugin's name.
const Name = "clock"

// Clock is the plugin's interface.
type Clock interface {
	// Began returns when the plugin's main began, in ns since 1970.
	Began() (int64, error)
}

// Plugins returns the plugin in a mode, with what it answers; the parent's answer does not matter.
func Plugins(mode string, began time.Time) plugin.PluginSet {
	if mode == GRPC {
		return plugin.PluginSet{Name: grpcPlugin{began: began}}
	}
	return plugin.PluginSet{Name: rpcPlugin{began}}
}

// Serve is the child's main. It returns when the parent says so.
func Serve(mode string, began time.Time) {
	go exitWithParent(os.Getppid())
	cfg := &plugin.ServeConfig{HandshakeConfig: Handshake, Plugins: Plugins(mode, began), Logger: hclog.NewNullLogger()}
	if mode == GRPC {
		cfg.GRPCServer = plugin.DefaultGRPCServer
	}
	plugin.Serve(cfg)
}

// exitWithParent ends this process when its parent has, which go-plugin leaves out.
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

// RPCServer is exported as net/rpc demands.
type RPCServer struct{ began time.Time }

// Began answers the call.
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
			Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return wrapperspb.Int64(p.began.UnixNano()), dec(&emptypb.Empty{})
			},
		}},
	}, nil)
	return nil
}

func (grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return grpcClock{c}, nil
}

type grpcClock struct{ c *grpc.ClientConn }

func (g grpcClock) Began() (int64, error) {
	var ns wrapperspb.Int64Value
	err := g.c.Invoke(context.Background(), "/bench.Clock/Began", &emptypb.Empty{}, &ns)
	return ns.Value, err
}
