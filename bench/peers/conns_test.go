package main

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// ends has the children's ends of connections. Their entry runs in this process.
var ends = make(chan net.Conn, 1)

// acceptor makes a listener of Parent.Accept.
type acceptor struct {
	ctx    context.Context
	parent *forkspawn.Parent
}

func (a acceptor) Accept() (net.Conn, error) { return a.parent.Accept(a.ctx) }
func (a acceptor) Close() error              { return nil }
func (a acceptor) Addr() net.Addr            { return &net.UnixAddr{Net: "unix"} }

func init() {
	forkspawn.Register("take", func(ctx context.Context, p *forkspawn.Parent) error {
		conn, err := p.Conn(ctx)
		if err != nil {
			return err
		}
		ends <- conn
		<-ctx.Done()
		return nil
	})
	forkspawn.Register("accept", func(ctx context.Context, p *forkspawn.Parent) error {
		for {
			conn, err := p.Accept(ctx)
			if err != nil {
				return err
			}
			ends <- conn
		}
	})
	forkspawn.Register("grpc", func(ctx context.Context, p *forkspawn.Parent) error {
		server := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(server, health.NewServer())
		defer context.AfterFunc(ctx, server.Stop)()
		return server.Serve(acceptor{ctx, p})
	})
}

// nettest's rules for a net.Conn hold, and gRPC runs.
func TestConns_AreThoseOfPackageNet(t *testing.T) {
	spawntest.NoLeaks(t)
	more := forkspawn.Command{Connections: true}
	for _, entry := range []string{"take", "accept"} {
		t.Run(entry, func(t *testing.T) {
			s := spawntest.NewSpawner(t,
				forkspawn.Config{Method: forkspawn.MethodInProcess, Command: more})
			nettest.TestConn(t, func() (near, far net.Conn, stop func(), err error) {
				child, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: entry})
				if err != nil {
					return nil, nil, nil, err
				}
				if entry == "take" {
					near, err = child.Conn(t.Context())
				} else {
					near, err = child.Open(t.Context())
				}
				if err != nil {
					return nil, nil, nil, err
				}
				far = <-ends
				return near, far, func() {
					near.Close()
					far.Close()
					child.Stop(context.Background())
				}, nil
			})
		})
	}
	t.Run("grpc", func(t *testing.T) {
		s := spawntest.NewSpawner(t, forkspawn.Config{Command: more})
		child, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: "grpc"})
		require.NoError(t, err)
		client, err := grpc.NewClient("passthrough:///child",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return child.Open(ctx)
			}))
		require.NoError(t, err)
		defer client.Close()
		reply, err := grpc_health_v1.NewHealthClient(client).Check(t.Context(),
			&grpc_health_v1.HealthCheckRequest{})
		require.NoError(t, err)
		assert.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, reply.GetStatus())
	})
}
