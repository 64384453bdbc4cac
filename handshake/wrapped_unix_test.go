//go:build linux || darwin

package handshake_test

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
)

// countedConn is what a program's own listener may hand out.
type countedConn struct{ *net.UnixConn }

type countedListener struct{ net.Listener }

func (l countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{conn.(*net.UnixConn)}, nil
}

func TestTheKernelIsAskedAboutAWrappedConnectionToo(t *testing.T) {
	l, err := handshake.Listen(countedListener{listenUnix(t)}, handshake.ListenerConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	x, ticket := expect(t, l, nil)
	x.SetPID(os.Getpid())
	dial(t, ticket.Addr)
	eventually(t, func() bool { return x.Phase() == handshake.PhaseHello }, "it tells the pid")
	requireJoins(t, x, ticket)
}
