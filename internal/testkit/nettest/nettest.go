// Package nettest has helpers for tests that need addresses and transports.
// It imports package transport and all transports, so only external tests can
// use it there.
package nettest

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tcp"
	"github.com/spawnwire/spawnwire/transport/tls"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// transports has each transport by its scheme.
var transports = map[string]interface {
	Dial(context.Context, transport.Addr) (net.Conn, error)
	Listen(context.Context, transport.Addr) (net.Listener, error)
}{
	transport.SchemeUDS: uds.Transport{},
	transport.SchemeTCP: tcp.Transport{},
	transport.SchemeTLS: tls.Transport{},
}

// Addr parses an address.
func Addr(t testing.TB, text string) transport.Addr {
	t.Helper()
	addr, err := transport.ParseAddr(text)
	require.NoError(t, err)
	return addr
}

// Schemes are the schemes of all transports.
var Schemes = []string{transport.SchemeUDS, transport.SchemeTCP, transport.SchemeTLS}

// Each runs a test for each transport, as a subtest with the scheme's name.
func Each(t *testing.T, test func(t *testing.T, scheme string)) {
	for _, scheme := range Schemes {
		t.Run(scheme, func(t *testing.T) { test(t, scheme) })
	}
}

// Listen listens with a transport: in a private directory, or on a free port
// of the loopback interface. The test's cleanup closes the listener.
func Listen(t testing.TB, scheme string) net.Listener {
	t.Helper()
	ctx, addr := testkit.Context(t), transport.Addr{Scheme: scheme, Target: "127.0.0.1:0"}
	if scheme == transport.SchemeUDS {
		dir, err := unixsock.NewDir()
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, dir.Remove()) })
		addr = transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("s")}
	}
	ln, err := transports[scheme].Listen(ctx, addr)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// Dial connects with a transport. The test's cleanup closes the connection.
func Dial(t testing.TB, addr transport.Addr) net.Conn {
	t.Helper()
	conn, err := transports[addr.Scheme].Dial(testkit.Context(t), addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}
