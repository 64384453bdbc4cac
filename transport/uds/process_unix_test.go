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
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() {
	children["race"] = raceChild
	children["cred"] = credChild
	children["dir"] = dirChild
}

// child is a re-executed test binary.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer // ends when closed
	lines *bufio.Reader
}

// startChild starts a child process that runs children[name], with env added to the environment.
func startChild(t testing.TB, name string, env []string, files ...*os.File) *child {
	t.Helper()
	return startChildAs(t, nil, name, env, files...)
}

func startChildAs(t testing.TB, cred *syscall.Credential, name string, env []string, files ...*os.File) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"="+name), env...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c := &child{cmd: cmd, stdin: stdin, lines: bufio.NewReader(stdout)}
	t.Cleanup(c.kill)
	return c
}

// line returns the next line of the child's standard output.
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

// raceChild says "ready", waits for the start signal, and tries to listen. The winner says its pid to
// whoever connects until its standard input ends.
func raceChild(ctx context.Context) error {
	fmt.Println("ready")
	io.Copy(io.Discard, os.NewFile(3, "start")) // ends for all children at once
	l, err := Listen(ctx, pathAddr(os.Getenv("UDS_TEST_PATH")))
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

func TestOneOfManyProcessesTakesOver(t *testing.T) {
	const rounds, n = 4, 12
	path := filepath.Join(shortDir(t), "s")
	for range rounds {
		makeStale(t, path)
		startRead, startWrite, err := os.Pipe()
		require.NoError(t, err)
		var racers []*child
		for range n {
			racers = append(racers, startChild(t, "race", []string{"UDS_TEST_PATH=" + path}, startRead))
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
		conn, err := Dial(testContext(t), pathAddr(path))
		require.NoError(t, err)
		pid, err := io.ReadAll(conn)
		require.NoError(t, err)
		conn.Close()
		assert.Equal(t, fmt.Sprintln(winners[0].cmd.Process.Pid), string(pid))
		for _, r := range racers {
			if r != winners[0] {
				r.kill()
			}
		}
		winners[0].kill() // which leaves a stale file for the next round
		requireSocketFile(t, path)
		removePath(t, path)
	}
}

// credChild connects and says who it is.
func credChild(ctx context.Context) error {
	conn, err := Dial(ctx, pathAddr(os.Getenv("UDS_TEST_PATH")))
	if err != nil {
		return err
	}
	fmt.Fprintln(conn, os.Getpid(), os.Geteuid(), os.Getegid())
	cred, err := PeerCred(conn)
	fmt.Println(cred.PID, err)
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// acceptCred accepts one connection and returns its credentials and the first line it says.
func acceptCred(t *testing.T, l *Listener) (Cred, string) {
	t.Helper()
	require.NoError(t, l.SetDeadline(time.Now().Add(20*time.Second)))
	conn, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	said, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	cred, err := PeerCred(conn)
	require.NoError(t, err)
	embedded, err := PeerCred(struct{ *net.UnixConn }{conn.(*net.UnixConn)})
	require.NoError(t, err)
	require.Equal(t, cred, embedded)
	return cred, said
}

func TestPeerCredOfAChild(t *testing.T) {
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	l := mustListen(t, addr)
	c := startChild(t, "cred", []string{"UDS_TEST_PATH=" + addr.Target})
	cred, said := acceptCred(t, l)
	assert.Equal(t, Cred{PID: c.cmd.Process.Pid, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}, cred)
	assert.Equal(t, fmt.Sprintln(cred.PID, cred.UID, cred.GID), said)
	assert.Equal(t, fmt.Sprint(os.Getpid(), " <nil>"), c.line(t), "the child sees who listens")
}

// dirChild makes a private directory, listens in it and says where, until its standard input ends.
func dirChild(ctx context.Context) error {
	d, err := NewDir()
	if err != nil {
		return err
	}
	l, err := Listen(ctx, d.Addr("s"))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	fmt.Println(d.Path())
	io.Copy(io.Discard, os.Stdin)
	return d.Remove()
}
