//go:build linux || darwin

package unixsock

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// pathEnv is the environment variable with the path of a role's socket.
const pathEnv = "UNIXSOCK_TEST_PATH"

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{
		"connects": connects,
		"owns-dir": ownsDir,
	})
	goleak.VerifyTestMain(m)
}

// connects dials the socket and keeps the connection until its stdin ends.
func connects(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", os.Getenv(pathEnv))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// ownsDir makes a private directory, listens in it and prints its path. It removes the
// directory when its stdin ends.
func ownsDir(context.Context) error {
	d, err := NewDir()
	if err != nil {
		return err
	}
	if _, err := net.Listen("unix", d.Socket("s")); err != nil {
		return err
	}
	fmt.Println(d.Path())
	io.Copy(io.Discard, os.Stdin)
	return d.Remove()
}

// child is a process in a role.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Reader
}

func startChild(t testing.TB, role string, env ...string) *child {
	t.Helper()
	cmd := testkit.RoleCommand(t, role)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{cmd: cmd, stdin: stdin, lines: bufio.NewReader(stdout)}
	t.Cleanup(c.kill)
	return c
}

// line returns the next line of the child's stdout.
func (c *child) line(t testing.TB) string {
	t.Helper()
	s, err := c.lines.ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSuffix(s, "\n")
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// listen binds the socket at path.
func listen(t testing.TB, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func mustNewDir(t testing.TB) *Dir {
	t.Helper()
	d, err := NewDir()
	require.NoError(t, err)
	t.Cleanup(func() { d.Remove() })
	return d
}
