package uds

import (
	"bufio"
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
const childEnv = "UDS_TEST_CHILD"

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

// shortDir makes a directory whose path leaves room for a socket's name, which t.TempDir may not.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func pathAddr(path string) transport.Addr {
	return transport.Addr{Scheme: transport.SchemeUDS, Target: path}
}

func mustListen(t testing.TB, addr transport.Addr) *Listener {
	t.Helper()
	l, err := Listen(testContext(t), addr)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// requireAnswers checks that l gets what is dialed at addr.
func requireAnswers(t testing.TB, l net.Listener, addr transport.Addr) {
	t.Helper()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(conn, "here")
		conn.Close()
	}()
	conn, err := Dial(testContext(t), addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "here\n", line)
}
