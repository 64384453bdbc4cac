//go:build unix

package forkspawn_test

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/nettest"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestAdvertise_IsWhereChildrenConnect(t *testing.T) {
	for _, scheme := range []string{"tls", "tcp"} {
		t.Run(scheme, func(t *testing.T) {
			gate, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer gate.Close()
			s := newSpawner(t, forkspawn.Config{
				Listen:    nettest.Addr(t, scheme+"://127.0.0.1:0"),
				Advertise: nettest.Addr(t, scheme+"://"+gate.Addr().String()),
			})
			assert.Equal(t, gate.Addr().String(), s.Addr().Target)
			assert.Equal(t, scheme == "tls", s.Addr().IsPinned())
			seen := forward(t, gate.Accept, func() (net.Conn, error) {
				return nil, errors.New("closed today")
			})
			boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
				spawnspec.Spec{Name: "echo", Entry: "echo"})
			assert.Equal(t, handshake.PhaseConnect, boot.Phase)
			assert.Positive(t, seen.Load())
		})
	}
}

func TestAdvertise_WildcardNeedsIt(t *testing.T) {
	for _, listen := range []string{"tls://0.0.0.0:0", "tls://[::]:0",
		"tcp://0.0.0.0:0", "tcp://[::]:0"} {
		t.Run(listen, func(t *testing.T) {
			cfg := forkspawn.Config{Listen: nettest.Addr(t, listen), AllowUnencryptedTCP: true}
			_, err := forkspawn.New(cfg)
			var bad *forkspawn.ConfigError
			require.ErrorAs(t, err, &bad)
			assert.Equal(t, "Advertise", bad.Field)
			assert.ErrorContains(t, err, listen)

			cfg.Advertise = nettest.Addr(t, listen[:6]+"127.0.0.1:0")
			s := newSpawner(t, cfg)
			assert.Regexp(t, `^127\.0\.0\.1:[1-9][0-9]*$`, s.Addr().Target,
				"with the port that the kernel chose")
			c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
			requireEchoes(t, c, "hello")
		})
	}
}

func TestAdvertise_IsChecked(t *testing.T) {
	for advertise, says := range map[string]string{
		"tcp://127.0.0.1:0":  "both must be tcp, or both tls",
		"uds:///run/x.sock":  "both must be tcp, or both tls",
		"tls://0.0.0.0:7000": "every address, and none to connect to",
		"tls://[::]:7000":    "every address, and none to connect to",
		"tls://127.0.0.1:7000#" + strings.Repeat("1", 64): "leave it out",
	} {
		_, err := forkspawn.New(forkspawn.Config{Listen: nettest.Addr(t, "tls://127.0.0.1:0"),
			Advertise: nettest.Addr(t, advertise)})
		var bad *forkspawn.ConfigError
		require.ErrorAs(t, err, &bad, advertise)
		assert.Equal(t, "Advertise", bad.Field)
		assert.Contains(t, bad.Reason, says)
	}
	_, err := forkspawn.New(forkspawn.Config{Advertise: nettest.Addr(t, "tcp://127.0.0.1:7000")})
	assert.ErrorContains(t, err, "Advertise", "children connect to a Unix socket")
	_, err = forkspawn.New(
		forkspawn.Config{Listen: transport.Addr{Scheme: "tls",
			Target: "127.0.0.1:0", Pin: [32]byte{1}}})
	var addr *transport.AddrError
	assert.ErrorAs(t, err, &addr)
}
