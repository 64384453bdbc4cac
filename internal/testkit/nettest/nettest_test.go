package nettest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/nettest"
	"github.com/spawnwire/spawnwire/transport"
)

func TestListen_IsReachedByDial(t *testing.T) {
	nettest.Each(t, func(t *testing.T, scheme string) {
		ln := nettest.Listen(t, scheme)
		accepted := testkit.Background(t, func() error {
			conn, err := ln.Accept()
			if err != nil {
				return err
			}
			return network.Secure(t.Context(), conn)
		})
		addr := transport.AddrOf(ln.Addr())
		assert.Equal(t, scheme, addr.Scheme)
		nettest.Dial(t, addr)
		require.NoError(t, accepted())
	})
}
