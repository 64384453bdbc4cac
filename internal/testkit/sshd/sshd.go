//go:build unix

// Package sshd runs OpenSSH's server for tests.
package sshd

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// Name is the name of the server for [Server.Command].
const Name = "box"

// Server is a running sshd.
type Server struct {
	// Command is an ssh with a configuration that knows the server as Name.
	Command []string
	// Dir has the configurations and the keys.
	Dir string
	// Port is the port.
	Port int

	ip  string
	cmd *exec.Cmd
	log *bytes.Buffer // complete after the end of the server
}

// New starts a server with more lines of sshd_config(5). The test's cleanup ends it. If
// there is no sshd, the test is skipped.
func New(t testing.TB, lines ...string) *Server {
	t.Helper()
	return start(t, "127.0.0.1", nil, lines)
}

// NewAt starts a server behind a command such as ip-netns(8), at an address.
func NewAt(t testing.TB, addr string, behind []string, lines ...string) *Server {
	t.Helper()
	return start(t, addr, behind, lines)
}

func start(t testing.TB, addr string, behind, lines []string) *Server {
	t.Helper()
	s := &Server{Dir: t.TempDir(), ip: addr, log: new(bytes.Buffer)}
	program := find(t, "sshd")
	ssh := find(t, "ssh")
	if os.Geteuid() == 0 {
		// Debian's directory for privilege separation
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	}
	for _, key := range []string{"host_key", "key"} {
		out, err := exec.Command(find(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", key,
			"-f", s.path(key)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	testkit.WriteFile(t, s.path("keys"), testkit.ReadFile(t, s.path("key.pub")))
	s.Port = freePort(t)
	testkit.WriteFile(t, s.path("sshd_config"), strings.Join(append(lines,
		"ListenAddress "+addr, fmt.Sprintf("Port %d", s.Port), "HostKey "+s.path("host_key"),
		"AuthorizedKeysFile "+s.path("keys"), "PidFile none", "UsePAM no", "StrictModes no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", ""), "\n"))
	me, err := user.Current()
	require.NoError(t, err)
	hostKey := strings.Join(strings.Fields(testkit.ReadFile(t, s.path("host_key.pub")))[:2], " ")
	testkit.WriteFile(t, s.path("known_hosts"),
		fmt.Sprintf("[%s]:%d %s\n", addr, s.Port, hostKey))
	testkit.WriteFile(t, s.path("ssh_config"), fmt.Sprintf(`Host %s
	HostName %s
	Port %d
	User %s
	IdentityFile %s
	IdentitiesOnly yes
	UserKnownHostsFile %s
	GlobalKnownHostsFile /dev/null
	StrictHostKeyChecking yes
`, Name, addr, s.Port, me.Username, s.path("key"), s.path("known_hosts")))
	s.Command = []string{ssh, "-F", s.path("ssh_config")}
	args := append(behind, program, "-D", "-e", "-f", s.path("sshd_config"))
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Stderr = s.log
	s.cmd.WaitDelay = 10 * time.Second
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { s.Stop(t) })
	testkit.Eventually(t, "sshd listens", s.Answers)
	return s
}

// Answers reports whether the server can be reached.
func (s *Server) Answers() bool {
	conn, err := net.DialTimeout("tcp", s.addr(), time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// Share returns the command of an ssh that uses one connection for all. The test's
// cleanup ends the connection.
func (s *Server) Share(t testing.TB) []string {
	t.Helper()
	socket := filepath.Join(testkit.ShortDir(t), "s")
	command := append(s.Command[:len(s.Command):len(s.Command)], "-o", "ControlPath="+socket)
	run := func(args ...string) *exec.Cmd {
		return exec.Command(command[0], append(command[1:], args...)...)
	}
	master := run("-M", "-N", Name)
	require.NoError(t, master.Start())
	t.Cleanup(func() {
		master.Process.Kill()
		master.Wait()
	})
	testkit.Eventually(t, "the shared connection", func() bool {
		return run("-O", "check", Name).Run() == nil
	})
	return command
}

// Stop ends the server and its connections.
func (s *Server) Stop(t testing.TB) {
	if s.cmd.ProcessState == nil {
		pid := s.cmd.Process.Pid
		sessions, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		s.cmd.Process.Kill()
		for _, session := range strings.Fields(string(sessions)) {
			if pid, err := strconv.Atoi(session); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		s.cmd.Wait()
		if t.Failed() {
			t.Logf("sshd:\n%s", s.log)
		}
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.Dir, name) }
func (s *Server) addr() string            { return fmt.Sprintf("%s:%d", s.ip, s.Port) }

// find returns the path of a program of OpenSSH, or skips the test.
func find(t testing.TB, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	t.Skipf("%s is missing; install openssh-server and openssh-client", name)
	panic("unreachable")
}

// freePort returns a port that nobody uses.
func freePort(t testing.TB) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// Log returns the log of a stopped server.
func (s *Server) Log() string { return s.log.String() }
