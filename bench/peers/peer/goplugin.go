package peer

import (
	"context"
	"fmt"
	"net/rpc"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// goPlugin is HashiCorp's go-plugin in its two modes. As in its documentation, one
// side has a Client with a Cmd, and the other calls plugin.Serve. The
// connection is a Unix socket, with yamux in the net/rpc mode. The handshake is
// its cookie. AutoMTLS, which is optional, and the log are off, because both
// cost time. The messages are those of the peers net/rpc and grpc.
type goPlugin struct{ grpc bool }

func (p goPlugin) Name() string {
	if p.grpc {
		return "go-plugin grpc"
	}
	return "go-plugin net/rpc"
}

func (goPlugin) Module() string { return "github.com/hashicorp/go-plugin" }

func (p goPlugin) Does(job Job) bool {
	if p.grpc {
		return grpcUnary{}.Does(job)
	}
	return netRPC{}.Does(job)
}

var pluginHandshake = plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "PEERS_PLUGIN",
	MagicCookieValue: "bench"}

const pluginName = "bench"

func (p goPlugin) plugins() plugin.PluginSet {
	if p.grpc {
		return plugin.PluginSet{pluginName: pluginGRPC{}}
	}
	return plugin.PluginSet{pluginName: pluginRPC{}}
}

func (p goPlugin) Open(ctx context.Context, job Job) (_ Worker, err error) {
	dir, err := os.MkdirTemp("", "peers-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	cmd, err := command(p, job, dir)
	if err != nil {
		return nil, err
	}
	cmd.Stderr = nil // the client sets it
	timeout := Patience
	if end, ok := ctx.Deadline(); ok {
		timeout = time.Until(end)
	}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: pluginHandshake, Plugins: p.plugins(), Cmd: cmd, StartTimeout: timeout,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolNetRPC, plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))},
	})
	end := sync.OnceValue(func() error {
		client.Kill() // asks, waits for up to two seconds, and kills
		return os.RemoveAll(dir)
	})
	conn, err := client.Client()
	if err != nil {
		client.Kill()
		return nil, err
	}
	plugged, err := conn.Dispense(pluginName)
	if err != nil {
		client.Kill()
		return nil, err
	}
	switch c := plugged.(type) {
	case *rpc.Client:
		return rpcWorker(c, "Plugin", job, dir, end), nil
	case *grpc.ClientConn:
		return grpcWorker(c, job, false, dir, end)
	}
	client.Kill()
	return nil, fmt.Errorf("the plugin is a %T", plugged)
}

func (p goPlugin) Serve(Job, Ready) error {
	cfg := &plugin.ServeConfig{HandshakeConfig: pluginHandshake, Plugins: p.plugins(),
		Logger: hclog.NewNullLogger()}
	if p.grpc {
		cfg.GRPCServer = func(opts []grpc.ServerOption) *grpc.Server {
			return plugin.DefaultGRPCServer(append(opts, grpc.MaxRecvMsgSize(maxMessage),
				grpc.MaxSendMsgSize(maxMessage)))
		}
	}
	plugin.Serve(cfg) // until the caller stops it
	return nil
}

// pluginRPC is the plugin in the net/rpc mode.
type pluginRPC struct{}

func (pluginRPC) Server(*plugin.MuxBroker) (any, error) {
	return &RPCService{}, nil
}
func (pluginRPC) Client(_ *plugin.MuxBroker, c *rpc.Client) (any, error) { return c, nil }

// pluginGRPC is the plugin in the gRPC mode.
type pluginGRPC struct{ plugin.NetRPCUnsupportedPlugin }

func (pluginGRPC) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	s.RegisterService(&grpcService, nil)
	return nil
}

func (pluginGRPC) GRPCClient(_ context.Context, _ *plugin.GRPCBroker,
	c *grpc.ClientConn) (any, error) {
	return c, nil
}
