//go:build unix

package forkspawn_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/nettest"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestConfig_PlainTCPToOtherMachinesIsAllowedByName(t *testing.T) {
	for name, cfg := range map[string]forkspawn.Config{
		"Listen": {Listen: nettest.Addr(t, "tcp://0.0.0.0:0"),
			Advertise: nettest.Addr(t, "tcp://127.0.0.1:0")},
		"Advertise": {Listen: nettest.Addr(t, "tcp://127.0.0.1:0"),
			Advertise: nettest.Addr(t, "tcp://192.0.2.1:0")},
	} {
		_, err := forkspawn.New(cfg)
		var bad *forkspawn.ConfigError
		require.ErrorAs(t, err, &bad)
		assert.Equal(t, name, bad.Field)
		assert.ErrorContains(t, err, "use tls://, or set AllowUnencryptedTCP")
		cfg.AllowUnencryptedTCP = true
		s := newSpawner(t, cfg)
		require.NoError(t, s.Close())
	}
	_, err := forkspawn.New(forkspawn.Config{Listen: nettest.Addr(t, "tcp://127.0.0.1:0"),
		Advertise: nettest.Addr(t, "tcp://a-name.test:0")})
	assert.ErrorContains(t, err, "AllowUnencryptedTCP",
		"a name may mean any address where the child is")

	// The child connects to the address in its ticket, because its parent has
	// allowed it. For connect(2), 0.0.0.0 is this machine and not a loopback address.
	s := newSpawner(t, forkspawn.Config{Listen: nettest.Addr(t, "tcp://127.0.0.1:0")})
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "far"},
		forkspawn.WithCommand(readdressed("tcp://0.0.0.0:${T##*:}")))
	require.NoError(t, err)
	requireEchoes(t, c, "hello")
}

func TestConfig_NamesItsBadField(t *testing.T) {
	for field, cfg := range map[string]forkspawn.Config{
		"BootTimeout":  {BootTimeout: -1},
		"StopGrace":    {StopGrace: -1},
		"MaxFrameSize": {MaxFrameSize: -1},
		"Stdin":        {Stdin: forkspawn.Capture(nil)},
	} {
		_, err := forkspawn.New(cfg)
		var c *forkspawn.ConfigError
		require.ErrorAs(t, err, &c)
		assert.Equal(t, field, c.Field)
	}
	_, err := forkspawn.New(forkspawn.Config{Listen: transport.Addr{Scheme: "pigeon", Target: "x"}})
	assert.ErrorContains(t, err, "unknown scheme")
}

func TestMethod_ReservedAndUnknownDiffer(t *testing.T) {
	for _, c := range []struct {
		method forkspawn.Method
		is     error
		text   string
	}{
		{"livefork", forkspawn.ErrMethodReserved, "golang/go#77032"},
		{"teleport", forkspawn.ErrMethodUnknown, `use "exec"`},
	} {
		_, err := forkspawn.New(forkspawn.Config{Method: c.method})
		var m *forkspawn.ConfigError
		require.ErrorAs(t, err, &m, c.method)
		assert.ErrorIs(t, err, c.is)
		assert.Contains(t, err.Error(), c.text)
	}
}
