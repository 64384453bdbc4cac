//go:build linux || darwin

package unixsock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// connectBy starts a shell script with the role "connects" as "$0". It returns the shell
// and the connection.
func connectBy(t *testing.T, script string, attr *syscall.SysProcAttr) (*exec.Cmd, net.Conn) {
	t.Helper()
	l := listen(t, filepath.Join(testkit.ShortDir(t), "s"))
	role := testkit.RoleCommand(t, "connects")
	sh := exec.Command("sh", "-c", script, role.Path)
	sh.Env = append(role.Env, pathEnv+"="+l.Addr().String())
	sh.SysProcAttr = attr
	stdin, err := sh.StdinPipe() // the role lives until its end
	require.NoError(t, err)
	require.NoError(t, sh.Start())
	t.Cleanup(func() {
		stdin.Close()
		sh.Wait()
	})
	return sh, accept(t, l)
}

func accept(t *testing.T, l *net.UnixListener) net.Conn {
	t.Helper()
	require.NoError(t, l.SetDeadline(time.Now().Add(testkit.Patience)))
	conn, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestPeerDescends_Family(t *testing.T) {
	group := &syscall.SysProcAttr{Setpgid: true}
	session := &syscall.SysProcAttr{Setsid: true}
	const orphan = `exec 3<&0; ("$0" <&3 & exec 3<&-) & wait; cat <&3`
	for _, test := range []struct {
		name, script string
		attr         *syscall.SysProcAttr
		shown        bool
	}{
		{"the process itself", `exec "$0"`, nil, true},
		{"its child", `"$0"; true`, nil, true},
		{"its grandchild", `(sh -c '"$0"; true' "$0"; true)`, nil, true},
		{"an orphan in its group", orphan, group, true},
		{"an orphan in its session", orphan, session, true},
		{"an orphan in neither", orphan, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			sh, conn := connectBy(t, test.script, test.attr)
			if test.shown {
				require.NoError(t, PeerDescends(conn, sh.Process.Pid))
			} else {
				var err error
				testkit.Eventually(t, "the process is an orphan", func() bool {
					err = PeerDescends(conn, sh.Process.Pid)
					return errors.Is(err, ErrNotDescendant)
				})
				assert.ErrorContains(t, err, fmt.Sprint(sh.Process.Pid))
			}
			other := exec.Command("cat")
			stdin, err := other.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, other.Start())
			defer other.Wait()
			defer stdin.Close()
			require.ErrorIs(t, PeerDescends(conn, other.Process.Pid), ErrNotDescendant)
		})
	}
}

func TestPeerDescends_DeadProcess(t *testing.T) {
	testkit.NeedLinux(t) // for the pidfd
	l := listen(t, filepath.Join(testkit.ShortDir(t), "s"))
	c := startChild(t, "connects", pathEnv+"="+l.Addr().String())
	conn := accept(t, l)
	require.NoError(t, PeerDescends(conn, os.Getpid()))
	c.kill()
	err := PeerDescends(conn, os.Getpid())
	require.ErrorIs(t, err, ErrNotDescendant)
	require.ErrorContains(t, err, fmt.Sprint(c.cmd.Process.Pid))
}

func TestPeerDescends_OtherConnections(t *testing.T) {
	conn, _ := testkit.TCP(t)
	require.ErrorIs(t, PeerDescends(conn, os.Getpid()), ErrNotUnix)
}
