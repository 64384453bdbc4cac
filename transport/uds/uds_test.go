package uds

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
)

func pathAddr(path string) transport.Addr {
	return transport.Addr{Scheme: transport.SchemeUDS, Target: path}
}

// newAddr returns an address in a new directory.
func newAddr(t testing.TB) transport.Addr {
	return pathAddr(filepath.Join(testkit.ShortDir(t), "s"))
}

func mustListen(t testing.TB, addr transport.Addr) *listener {
	t.Helper()
	l, err := Listen(testkit.Context(t), addr)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l.(*listener)
}

// requireAnswers dials addr, and l must accept.
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
	conn, err := Dial(testkit.Context(t), addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(testkit.Patience)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "here\n", line)
}

func TestTransport_RoundTrip(t *testing.T) {
	ctx := testkit.Context(t)
	var tr Transport
	l, err := tr.Listen(ctx, newAddr(t))
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := l.Accept()
		accepted <- conn
	}()
	conn, err := tr.Dial(ctx, transport.AddrOf(l.Addr()))
	require.NoError(t, err)
	defer conn.Close()
	assert.IsType(t, &net.UnixConn{}, conn)
	peer := testkit.Receive(t, accepted)
	defer peer.Close()
	assert.IsType(t, &net.UnixConn{}, peer)

	_, err = conn.Write([]byte("hi"))
	require.NoError(t, err)
	buf := make([]byte, 2)
	_, err = peer.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hi", string(buf))
}

func TestAddr_OtherAddressesAreRefused(t *testing.T) {
	for name, addr := range map[string]transport.Addr{
		"zero":              {},
		"another scheme":    {Scheme: transport.SchemeTCP, Target: "127.0.0.1:1"},
		"no path":           {Scheme: transport.SchemeUDS},
		"relative path":     pathAddr("dir/s"),
		"NUL in the path":   pathAddr("/tmp/a\x00b"),
		"NUL in front":      pathAddr("\x00name"),
		"no abstract name":  pathAddr("@"),
		"unknown scheme":    {Scheme: "npipe", Target: "/x"},
		"scheme in capital": {Scheme: "UDS", Target: "/x"},
	} {
		t.Run(name, func(t *testing.T) {
			var addrErr *transport.AddrError
			conn, err := Transport{}.Dial(testkit.Context(t), addr)
			assert.ErrorAs(t, err, &addrErr)
			assert.True(t, conn == nil, "no typed nil in the interface")
			l, err := Transport{}.Listen(testkit.Context(t), addr)
			assert.ErrorAs(t, err, &addrErr)
			assert.True(t, l == nil, "no typed nil in the interface")
		})
	}
}

func TestAddr_LongPath(t *testing.T) {
	want, ok := map[string]int{"linux": 107, "darwin": 103, "windows": 107}[runtime.GOOS]
	require.True(t, ok, "unix(7) of this platform has the limit")
	assert.Equal(t, want, unixsock.MaxName)

	dir := testkit.ShortDir(t)
	long := filepath.Join(dir, strings.Repeat("x", want-len(dir)))
	requireTooLong(t, pathAddr(long), PathError{Path: long, Len: want + 1, Limit: want})

	addr := pathAddr(long[:want]) // the limit is not too low
	requireAnswers(t, mustListen(t, addr), addr)
}

func requireTooLong(t *testing.T, addr transport.Addr, want PathError) {
	t.Helper()
	for name, err := range map[string]error{
		"dial":   testkit.Second(Dial(testkit.Context(t), addr)),
		"listen": testkit.Second(Listen(testkit.Context(t), addr)),
	} {
		var pathErr *PathError
		if assert.ErrorAs(t, err, &pathErr, name) {
			assert.Equal(t, want, *pathErr, name)
			assert.Contains(t, err.Error(), addr.Target, name)
		}
	}
}

func TestPathError_Text(t *testing.T) {
	err := &PathError{Path: "/very/long", Len: 130, Limit: 107}
	assert.EqualError(t, err, `uds: socket path "/very/long" has 130 bytes, the limit is 107`)
}

func TestDial_NoFile(t *testing.T) {
	_, err := Dial(testkit.Context(t), newAddr(t))
	var opErr *net.OpError
	assert.ErrorAs(t, err, &opErr)
	assert.True(t, strings.HasPrefix(err.Error(), "uds: dial unix "), err)
}

func TestListen_NoDirectory(t *testing.T) {
	_, err := Listen(testkit.Context(t), pathAddr(filepath.Join(testkit.ShortDir(t), "none", "s")))
	var opErr *net.OpError
	assert.ErrorAs(t, err, &opErr)
}

func TestListen_RegularFileStays(t *testing.T) {
	addr := newAddr(t)
	testkit.WriteFile(t, addr.Target, "precious")
	_, err := Listen(testkit.Context(t), addr)
	assert.ErrorIs(t, err, ErrNotSocket)
	assert.ErrorContains(t, err, addr.Target)
	assert.ErrorContains(t, err, "a regular file")
	assert.Equal(t, "precious", testkit.ReadFile(t, addr.Target))
}

func TestContext_HasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	addr := newAddr(t)
	_, err := Listen(ctx, addr)
	assert.ErrorIs(t, err, context.Canceled)
	assert.NoFileExists(t, addr.Target)

	mustListen(t, addr)
	_, err = Dial(ctx, addr)
	assert.ErrorIs(t, err, context.Canceled)
	_, err = Listen(ctx, addr)
	assert.ErrorIs(t, err, context.Canceled, "and not ErrInUse, because it is not known")
}

func TestPeerCred_OtherConnections(t *testing.T) {
	a, _ := testkit.Pipe(t)
	_, err := PeerCred(a)
	assert.ErrorIs(t, err, ErrNotUnix)

	conn, _ := testkit.TCP(t)
	_, err = PeerCred(conn)
	assert.ErrorIs(t, err, ErrNotUnix)
	assert.ErrorContains(t, err, "*net.TCPConn")
}

func TestPeerCred_ClosedConnection(t *testing.T) {
	conn, _ := testkit.Unix(t)
	require.NoError(t, conn.Close())
	_, err := PeerCred(conn)
	assert.ErrorIs(t, err, net.ErrClosed)
}
