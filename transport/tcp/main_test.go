package tcp

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{"serves": serves})
	goleak.VerifyTestMain(m)
}

func tcpAddr(target string) transport.Addr {
	return transport.Addr{Scheme: transport.SchemeTCP, Target: target}
}

func mustListen(t testing.TB, tr Transport, target string) net.Listener {
	t.Helper()
	l, err := tr.Listen(testkit.Context(t), tcpAddr(target))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// connect connects to l at addr and returns both ends.
func connect(
	t testing.TB, tr Transport, l net.Listener, addr transport.Addr,
) (dialed, accepted net.Conn) {
	t.Helper()
	dialed, err := tr.Dial(testkit.Context(t), addr)
	require.NoError(t, err)
	t.Cleanup(func() { dialed.Close() })
	accepted, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return dialed, accepted
}

func portOf(t testing.TB, l net.Listener) string {
	t.Helper()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}
