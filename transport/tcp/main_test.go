package tcp

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/transport"
)

// childEnv makes a re-executed test binary run one of children instead of the tests.
const childEnv = "TCP_TEST_CHILD"

// children are what a child process can be; files with platform-bound tests add theirs.
var children = map[string]func(context.Context) error{}

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := children[name](ctx)
		cancel()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// testContext bounds what a test may wait for.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func tcpAddr(target string) transport.Addr {
	return transport.Addr{Scheme: transport.SchemeTCP, Target: target}
}

func mustListen(t testing.TB, tr Transport, target string) net.Listener {
	t.Helper()
	l, err := tr.Listen(testContext(t), tcpAddr(target))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// connect dials l and returns both ends.
func connect(t testing.TB, tr Transport, l net.Listener, addr transport.Addr) (dialed, accepted net.Conn) {
	t.Helper()
	dialed, err := tr.Dial(testContext(t), addr)
	require.NoError(t, err)
	t.Cleanup(func() { dialed.Close() })
	accepted, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { accepted.Close() })
	return dialed, accepted
}
