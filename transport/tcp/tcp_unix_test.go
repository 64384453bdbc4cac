//go:build linux || darwin

package tcp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func sockopt(t *testing.T, conn syscall.Conn, level, opt int) int {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	var value int
	var optErr error
	require.NoError(t, raw.Control(func(fd uintptr) {
		value, optErr = unix.GetsockoptInt(int(fd), level, opt)
	}))
	require.NoError(t, optErr)
	return value
}

func TestSocket_Options(t *testing.T) {
	var tr Transport
	l := mustListen(t, tr, "127.0.0.1:0")
	assert.Zero(t, sockopt(t, l.(*listener), unix.SOL_SOCKET, unix.SO_REUSEPORT))
	dialed, accepted := connect(t, tr, l, transport.AddrOf(l.Addr()))
	for name, conn := range map[string]net.Conn{"dialed": dialed, "accepted": accepted} {
		t.Run(name, func(t *testing.T) {
			c := conn.(*net.TCPConn)
			assert.NotZero(t, sockopt(t, c, unix.IPPROTO_TCP, unix.TCP_NODELAY))
			assert.NotZero(t, sockopt(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE))
			assert.Equal(t, 5, sockopt(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL))
			assert.Equal(t, 4, sockopt(t, c, unix.IPPROTO_TCP, unix.TCP_KEEPCNT))
		})
	}
}

func TestDial_IsRefused(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "localhost"} {
		l := mustListen(t, Transport{}, "127.0.0.1:0")
		require.NoError(t, l.Close())
		_, err := Transport{}.Dial(testkit.Context(t), tcpAddr(host+":"+portOf(t, l)))
		assert.ErrorIs(t, err, syscall.ECONNREFUSED, host)
	}
}

func TestListen_PortIsTaken(t *testing.T) {
	for name, tc := range map[string]struct{ first, second Transport }{
		"without ReusePort":    {},
		"only the first sets":  {first: Transport{ReusePort: true}},
		"only the second sets": {second: Transport{ReusePort: true}},
	} {
		t.Run(name, func(t *testing.T) {
			l := mustListen(t, tc.first, "127.0.0.1:0")
			_, err := tc.second.Listen(testkit.Context(t), transport.AddrOf(l.Addr()))
			assert.ErrorIs(t, err, syscall.EADDRINUSE)
			var opErr *net.OpError
			assert.ErrorAs(t, err, &opErr)
		})
	}
}

func TestReusePort_OneProcess(t *testing.T) {
	tr := Transport{ReusePort: true}
	first := mustListen(t, tr, "127.0.0.1:0")
	second := mustListen(t, tr, first.Addr().String())
	assert.Equal(t, first.Addr(), second.Addr())
}

// addrEnv is the environment variable with the address of the role "serves".
const addrEnv = "TCP_TEST_ADDR"

// serves listens, prints "ready", and sends its pid on each connection until its stdin
// ends.
func serves(ctx context.Context) error {
	l, err := Transport{ReusePort: true}.Listen(ctx, tcpAddr(os.Getenv(addrEnv)))
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	fmt.Println("ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil
		}
		fmt.Fprintln(conn, os.Getpid())
		conn.Close()
	}
}

func TestReusePort_ManyProcesses(t *testing.T) {
	const n = 3
	tr := Transport{ReusePort: true}
	// This process holds the port until the children have it. It gets no connection,
	// because it closes its socket before the first one.
	holder := mustListen(t, tr, "127.0.0.1:0")
	addr := transport.AddrOf(holder.Addr())
	got := map[string]int{}
	var stdins []io.Closer
	for range n {
		cmd := testkit.RoleCommand(t, "serves")
		cmd.Env = append(cmd.Env, addrEnv+"="+addr.Target)
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { assert.NoError(t, cmd.Wait()) })
		stdins = append(stdins, stdin)
		t.Cleanup(func() { // closes all before the first Wait
			for _, stdin := range stdins {
				stdin.Close()
			}
		})
		line, err := bufio.NewReader(stdout).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		got[fmt.Sprintln(cmd.Process.Pid)] = 0
	}
	require.NoError(t, holder.Close())

	// The kernel chooses a listener by a hash of both ends' addresses and ports. Each
	// connection has another port. So 2000 connections miss one of three listeners with a
	// probability of 1 in 10^350.
	idle := n
	for i := 0; i < 2000 && idle > 0; i++ {
		conn, err := tr.Dial(testkit.Context(t), addr)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(testkit.Patience)))
		pid, err := io.ReadAll(conn)
		require.NoError(t, err)
		conn.Close()
		require.Contains(t, got, string(pid))
		if got[string(pid)]++; got[string(pid)] == 1 {
			idle--
		}
	}
	assert.Zero(t, idle, "every child gets connections: %v", got)
}
