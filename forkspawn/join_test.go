package forkspawn

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestWarmUpDecodesWhatARealSpecIsMadeOf(t *testing.T) {
	spec, err := spawnspec.Unmarshal([]byte(exampleSpec))
	require.NoError(t, err, "a spec that is refused at its first field warms nothing up")
	assert.Equal(t, "x", spec.Entry)
	again, err := spawnspec.Marshal(spec)
	require.NoError(t, err)
	assert.Equal(t, exampleSpec, string(again))
}

func TestOnParentGoneMayCloseTheConnection(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ln := newLocalNet()
	l, err := handshake.Listen(ln, handshake.ListenerConfig{})
	require.NoError(t, err)
	defer l.Close()
	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Spec: []byte(exampleSpec)})
	require.NoError(t, err)
	x.SetPID(0)
	var p *Parent
	closed := make(chan struct{})
	p, err = join(ctx, ticket, joining{dial: ln.dial, cfg: JoinConfig{OnParentGone: func() {
		p.Close(0, "")
		close(closed)
	}}})
	require.NoError(t, err)
	peer, err := x.WaitForPeer(ctx)
	require.NoError(t, err)
	// By the control connection, which must be there first.
	require.NoError(t, peer.Cancel(ctx, transport.Cancel{}))
	<-p.Context().Done()
	peer.Abort()
	select {
	case <-closed:
	case <-ctx.Done():
		require.Fail(t, "Close hangs")
	}
}
