//go:build linux || darwin

package uds

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
)

// pathEnv is the environment variable with the path of a role's socket.
const pathEnv = "UDS_TEST_PATH"

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{
		"competes":            competes,
		"prints-its-identity": printsItsIdentity,
	})
	goleak.VerifyTestMain(m)
}

// child is a process in a role.
type child struct {
	cmd   *exec.Cmd
	lines *bufio.Reader
}

// startChild starts a role, with path in its environment. cred may be nil. The files are
// the descriptors from 3 on.
func startChild(
	t testing.TB, role, path string, cred *syscall.Credential, files ...*os.File,
) *child {
	t.Helper()
	cmd := testkit.RoleCommand(t, role)
	cmd.Env = append(cmd.Env, pathEnv+"="+path)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	_, err := cmd.StdinPipe() // open until the child is killed
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{cmd: cmd, lines: bufio.NewReader(stdout)}
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

// competes prints "ready", waits for the end of file on descriptor 3, and listens. If it
// wins, it sends its pid on each connection until its stdin ends.
func competes(ctx context.Context) error {
	fmt.Println("ready")
	io.Copy(io.Discard, os.NewFile(3, "start"))
	l, err := Listen(ctx, pathAddr(os.Getenv(pathEnv)))
	if errors.Is(err, ErrInUse) {
		fmt.Println("lost")
		return nil
	}
	if err != nil {
		fmt.Println(err)
		return err
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	fmt.Println("won")
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil
		}
		fmt.Fprintln(conn, os.Getpid())
		conn.Close()
	}
}

func TestListen_OneOfManyProcessesTakesOver(t *testing.T) {
	const rounds, n = 4, 12
	addr := newAddr(t)
	for range rounds {
		testkit.StaleSocket(t, addr.Target)
		startRead, startWrite, err := os.Pipe()
		require.NoError(t, err)
		var racers []*child
		for range n {
			racers = append(racers, startChild(t, "competes", addr.Target, nil, startRead))
		}
		startRead.Close()
		for _, r := range racers {
			require.Equal(t, "ready", r.line(t))
		}
		startWrite.Close()

		var winners []*child
		for _, r := range racers {
			switch line := r.line(t); line {
			case "won":
				winners = append(winners, r)
			case "lost":
			default:
				t.Error(line)
			}
		}
		require.Len(t, winners, 1)
		conn, err := Dial(testkit.Context(t), addr)
		require.NoError(t, err)
		pid, err := io.ReadAll(conn)
		require.NoError(t, err)
		conn.Close()
		assert.Equal(t, fmt.Sprintln(winners[0].cmd.Process.Pid), string(pid))
		for _, r := range racers {
			r.kill()
		}
		requireSocket(t, addr.Target)
		require.NoError(t, os.Remove(addr.Target))
	}
}

// The owner's lock must not keep others from listening in the directory.
func TestListen_ChildInThePrivateDirectoryOfItsParent(t *testing.T) {
	d, err := unixsock.NewDir()
	require.NoError(t, err)
	t.Cleanup(func() { d.Remove() })
	start, err := os.Open(os.DevNull) // at its end from the beginning
	require.NoError(t, err)
	defer start.Close()
	c := startChild(t, "competes", d.Socket("s"), nil, start)
	require.Equal(t, "ready", c.line(t))
	require.Equal(t, "won", c.line(t))
}

// printsItsIdentity connects, and sends its pid, uid and gid. On stdout it prints the pid
// of the listener.
func printsItsIdentity(ctx context.Context) error {
	conn, err := Dial(ctx, pathAddr(os.Getenv(pathEnv)))
	if err != nil {
		return err
	}
	fmt.Fprintln(conn, os.Getpid(), os.Geteuid(), os.Getegid())
	cred, err := PeerCred(conn)
	fmt.Println(cred.PID, err)
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// acceptCred accepts a connection, and returns its credentials and its first line.
func acceptCred(t *testing.T, l *listener) (Cred, string) {
	t.Helper()
	require.NoError(t, l.SetDeadline(time.Now().Add(testkit.Patience)))
	conn, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	cred, err := PeerCred(conn)
	require.NoError(t, err)
	embedded, err := PeerCred(struct{ *net.UnixConn }{conn.(*net.UnixConn)})
	require.NoError(t, err)
	require.Equal(t, cred, embedded)
	return cred, line
}

func TestPeerCred_Child(t *testing.T) {
	addr := newAddr(t)
	l := mustListen(t, addr)
	c := startChild(t, "prints-its-identity", addr.Target, nil)
	cred, line := acceptCred(t, l)
	assert.Equal(t, Cred{PID: c.cmd.Process.Pid, UID: uint32(os.Geteuid()),
		GID: uint32(os.Getegid())}, cred)
	assert.Equal(t, fmt.Sprintln(cred.PID, cred.UID, cred.GID), line)
	assert.Equal(t, fmt.Sprint(os.Getpid(), " <nil>"), c.line(t), "the pid of the listener")
}

func TestPeerCred_AnotherGroup(t *testing.T) {
	testkit.NeedRoot(t) // to start a child in another group
	addr := newAddr(t)
	l := mustListen(t, addr)
	c := startChild(t, "prints-its-identity", addr.Target, &syscall.Credential{Uid: 0, Gid: 12345})
	cred, _ := acceptCred(t, l)
	assert.Equal(t, Cred{PID: c.cmd.Process.Pid, UID: 0, GID: 12345}, cred)
}
