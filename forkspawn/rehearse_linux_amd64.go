package forkspawn

import (
	"context"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// rehearsalBound is there to find hangs.
const rehearsalBound = 5 * time.Second

// rehearse joins a parent in this very process as a child of the template will join its own, so that a child finds
// done what is done once in a process, has the buffers, and allocates where there is room already. It changes nothing
// else, and an error of it does no harm.
func rehearse() error {
	ctx, cancel := context.WithTimeout(context.Background(), rehearsalBound)
	defer cancel()
	spec, err := spawnspec.Marshal(&spawnspec.Spec{
		Name: "rehearsal", Depth: 1, Entry: "rehearsal", Method: MethodForkserver, Parent: spawnspec.Identity{ID: "0", PID: 1, Name: "rehearsal"},
	})
	if err != nil {
		return err
	}
	peers, err := handshake.Listen(newLocalNet(), handshake.ListenerConfig{})
	if err != nil {
		return err
	}
	defer peers.Close()
	x, err := peers.Expect(handshake.Expectation{ID: handshake.NewID(), Spec: spec})
	if err != nil {
		return err
	}
	defer x.Cancel()
	near, far, err := connections()
	if err != nil {
		return err
	}
	x.Serve(near[0], near[1])
	connect, control := connector(far[0]), connector(far[1])
	ticket, err := handshake.ParseTicket(string(x.AppendTicket(nil, transport.Addr{Scheme: transport.SchemeUDS, Target: "/rehearsal"})))
	if err != nil {
		return err
	}
	p, err := join(ctx, ticket, joining{
		cfg:  JoinConfig{OnParentGone: func() {}},
		dial: func(context.Context) (net.Conn, error) { return connect() }, control: control,
	})
	if err != nil {
		return err
	}
	defer p.Close(0, "")
	peer, err := x.WaitForPeer(ctx)
	if err != nil {
		return err
	}
	return peer.Close()
}
