package uds

import (
	"context"
	"io/fs"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

func TestTransportRoundTrip(t *testing.T) {
	ctx := testContext(t)
	var tr Transport
	l, err := tr.Listen(ctx, pathAddr(filepath.Join(shortDir(t), "s")))
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
	peer := <-accepted
	defer peer.Close()
	assert.IsType(t, &net.UnixConn{}, peer)

	_, err = conn.Write([]byte("hi"))
	require.NoError(t, err)
	buf := make([]byte, 2)
	_, err = peer.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hi", string(buf))
}

func TestAddressesThatAreNotOurs(t *testing.T) {
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
			conn, err := Transport{}.Dial(testContext(t), addr)
			assert.ErrorAs(t, err, &addrErr)
			assert.True(t, conn == nil, "no typed nil in the interface")
			l, err := Transport{}.Listen(testContext(t), addr)
			assert.ErrorAs(t, err, &addrErr)
			assert.True(t, l == nil, "no typed nil in the interface")
		})
	}
}

func TestPathOverTheLimit(t *testing.T) {
	want, ok := map[string]int{"linux": 107, "darwin": 103, "windows": 107}[runtime.GOOS]
	require.True(t, ok, "unix(7) or its like of this platform says")
	assert.Equal(t, want, maxName)

	dir := shortDir(t)
	long := filepath.Join(dir, strings.Repeat("x", maxName-len(dir)))
	require.Len(t, long, maxName+1)
	for name, err := range map[string]error{
		"dial":   second(Dial(testContext(t), pathAddr(long))),
		"listen": second(Listen(testContext(t), pathAddr(long))),
	} {
		var pathErr *PathError
		if assert.ErrorAs(t, err, &pathErr, name) {
			assert.Equal(t, PathError{Path: long, Len: maxName + 1, Limit: maxName}, *pathErr, name)
			assert.Contains(t, err.Error(), long, name)
		}
	}

	// One byte less works, so the limit is not too low.
	addr := pathAddr(long[:maxName])
	requireAnswers(t, mustListen(t, addr), addr)
}

func TestPathErrorText(t *testing.T) {
	err := &PathError{Path: "/very/long", Len: 130, Limit: 107}
	assert.EqualError(t, err, `uds: socket path "/very/long" has 130 bytes, the limit is 107`)
}

func TestDialWhereNothingIs(t *testing.T) {
	_, err := Dial(testContext(t), pathAddr(filepath.Join(shortDir(t), "none")))
	require.Error(t, err)
	var opErr *net.OpError
	assert.ErrorAs(t, err, &opErr)
	assert.True(t, strings.HasPrefix(err.Error(), "uds: dial unix "), err)
}

func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path := filepath.Join(shortDir(t), "s")
	_, err := Listen(ctx, pathAddr(path))
	assert.ErrorIs(t, err, context.Canceled)
	assert.NoFileExists(t, path)

	mustListen(t, pathAddr(path))
	_, err = Dial(ctx, pathAddr(path))
	assert.ErrorIs(t, err, context.Canceled)
	_, err = Listen(ctx, pathAddr(path))
	assert.ErrorIs(t, err, context.Canceled, "and not ErrInUse, which nobody has found out")
}

func TestPeerCredOfOtherConns(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	_, err := PeerCred(a)
	assert.ErrorIs(t, err, ErrNotUnix)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = PeerCred(conn)
	assert.ErrorIs(t, err, ErrNotUnix)
	assert.ErrorContains(t, err, "*net.TCPConn")
}

func TestPeerCredOfAClosedConn(t *testing.T) {
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	mustListen(t, addr)
	conn, err := Dial(testContext(t), addr)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = PeerCred(conn)
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestMissingDirectory(t *testing.T) {
	_, err := Listen(testContext(t), pathAddr(filepath.Join(shortDir(t), "none", "s")))
	var opErr *net.OpError
	assert.ErrorAs(t, err, &opErr)
}

func TestFilesThatAreNoSocketsStay(t *testing.T) {
	path := filepath.Join(shortDir(t), "f")
	writeFile(t, path, "precious")
	_, err := Listen(testContext(t), pathAddr(path))
	assert.ErrorIs(t, err, ErrNotSocket)
	assert.ErrorContains(t, err, path)
	assert.ErrorContains(t, err, "a regular file")
	assert.Equal(t, "precious", readFile(t, path))
}

func TestDirAddr(t *testing.T) {
	d := mustNewDir(t)
	assert.Equal(t, pathAddr(filepath.Join(d.Path(), "parent")), d.Addr("parent"))
	assert.Equal(t, pathAddr(filepath.Join(d.Path(), "@x")), d.Addr("@x"), "a file like any other")
	for _, name := range []string{"", ".", "..", "a/b", "/a", "a/", "../a"} {
		assert.True(t, d.Addr(name).IsZero(), name)
	}
	requireAnswers(t, mustListen(t, d.Addr("parent")), d.Addr("parent"))
	longest := d.Addr(strings.Repeat("x", maxShortName))
	requireAnswers(t, mustListen(t, longest), longest)
}

func TestDirRemove(t *testing.T) {
	d := mustNewDir(t)
	l := mustListen(t, d.Addr("s"))
	require.NoError(t, d.Remove())
	assert.NoDirExists(t, d.Path())
	assert.NoError(t, l.Close(), "its file is gone already, which is no error")
	assert.NoError(t, d.Remove(), "a second time")
}

func TestDirRemoveKeepsWhatIsNoSocket(t *testing.T) {
	d := mustNewDir(t)
	mustListen(t, d.Addr("s"))
	keep := filepath.Join(d.Path(), "notes.txt")
	writeFile(t, keep, "precious")
	err := d.Remove()
	assert.ErrorIs(t, err, ErrNotSocket)
	assert.ErrorContains(t, err, "notes.txt")
	assert.Equal(t, "precious", readFile(t, keep))
	assert.NoFileExists(t, d.Addr("s").Target)

	removePath(t, keep)
	assert.NoError(t, d.Remove(), "again, when the file is gone")
	assert.NoDirExists(t, d.Path())
}

func TestNewDirWhereNoPlaceWorks(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	writeFile(t, file, "")
	long := filepath.Join(dir, strings.Repeat("x", 200))
	missing := filepath.Join(dir, "missing")
	_, err := newDirIn([]place{{name: "first", dir: missing}, {name: "second", dir: long}, {name: "third", dir: file}, {name: "fourth", dir: "relative"}})
	require.Error(t, err)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	var pathErr *PathError
	if assert.ErrorAs(t, err, &pathErr) {
		assert.Contains(t, pathErr.Path, long)
		assert.Equal(t, len(long)+len("/spawnwire-0123456789/")+maxShortName, pathErr.Len)
	}
	for _, part := range []string{"first " + missing, "second " + long, "third " + file, "fourth relative: not an absolute path"} {
		assert.ErrorContains(t, err, part)
	}
}
