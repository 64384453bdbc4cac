package forkspawn

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/internal/localnet"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestJoin_RehearsalDecodesARealSpec(t *testing.T) {
	spec, err := spawnspec.Unmarshal([]byte(exampleSpec))
	require.NoError(t, err, "a spec that is refused at its first field warms nothing up")
	assert.Equal(t, "x", spec.Entry)
	again, err := spawnspec.Marshal(spec)
	require.NoError(t, err)
	assert.Equal(t, exampleSpec, string(again))
}

func TestJoin_OnParentGoneMayCloseTheConnection(t *testing.T) {
	ctx := testkit.Context(t)
	ln := localnet.New()
	l, err := handshake.Listen(ln, handshake.ListenerConfig{})
	require.NoError(t, err)
	defer l.Close()
	x, err := l.Expect(handshake.Expectation{Spec: []byte(exampleSpec)})
	require.NoError(t, err)
	ticket := x.Ticket()
	x.SetPID(0)
	var p *Parent
	closed := make(chan struct{})
	p, err = join(ctx, ticket, joining{dial: ln.Dial, cfg: JoinConfig{OnParentGone: func() {
		p.Close(0, "")
		close(closed)
	}}})
	require.NoError(t, err)
	peer, err := x.WaitForPeer(ctx)
	require.NoError(t, err)
	// The context ends only when the child has its control connection.
	require.NoError(t, peer.Cancel(ctx, handshake.Cancel{}))
	<-p.Context().Done()
	peer.Abort()
	select {
	case <-closed:
	case <-ctx.Done():
		require.Fail(t, "Close hangs")
	}
}
