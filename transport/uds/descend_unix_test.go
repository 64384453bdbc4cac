//go:build linux || darwin

package uds

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// connectBy starts a shell script that starts the "cred" child as "$0", and returns the shell and the connection that the
// child made.
func connectBy(t *testing.T, script string, attr *syscall.SysProcAttr) (*exec.Cmd, net.Conn) {
	t.Helper()
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	l := mustListen(t, addr)
	sh := exec.Command("sh", "-c", script, os.Args[0])
	sh.Env = append(os.Environ(), childEnv+"=cred", "UDS_TEST_PATH="+addr.Target)
	sh.SysProcAttr = attr
	stdin, err := sh.StdinPipe() // the child lives until its end
	require.NoError(t, err)
	require.NoError(t, sh.Start())
	t.Cleanup(func() {
		stdin.Close()
		sh.Wait()
	})
	require.NoError(t, l.SetDeadline(time.Now().Add(20*time.Second)))
	conn, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return sh, conn
}

func TestPeerDescends(t *testing.T) {
	group := &syscall.SysProcAttr{Setpgid: true}
	session := &syscall.SysProcAttr{Setsid: true}
	const orphan = `exec 3<&0; ("$0" <&3 & exec 3<&-) & wait; cat <&3`
	for _, test := range []struct {
		name, script string
		attr         *syscall.SysProcAttr
		shown        bool
	}{
		{"the very process", `exec "$0"`, nil, true},
		{"its child", `"$0"; true`, nil, true},
		{"its child's child", `(sh -c '"$0"; true' "$0"; true)`, nil, true},
		{"an orphan that was left in its group", orphan, group, true},
		{"an orphan that was left in its session", orphan, session, true},
		{"an orphan with neither", orphan, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			sh, conn := connectBy(t, test.script, test.attr)
			if !test.shown { // as soon as it is an orphan
				require.Eventually(t, func() bool { return PeerDescends(conn, sh.Process.Pid) != nil }, 20*time.Second, time.Millisecond)
			}
			err := PeerDescends(conn, sh.Process.Pid)
			if test.shown {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrNotDescendant)
				assert.ErrorContains(t, err, fmt.Sprint(sh.Process.Pid))
			}
			other := exec.Command("cat")
			stdin, err := other.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, other.Start())
			defer other.Wait()
			defer stdin.Close()
			err = PeerDescends(conn, other.Process.Pid)
			require.ErrorIs(t, err, ErrNotDescendant)
			t.Log(err)
		})
	}
}

func TestPeerDescendsOfAProcessThatHasEnded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no pidfd")
	}
	addr := pathAddr(filepath.Join(shortDir(t), "s"))
	l := mustListen(t, addr)
	c := startChild(t, "cred", []string{"UDS_TEST_PATH=" + addr.Target})
	conn, err := l.Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, PeerDescends(conn, os.Getpid()))
	c.kill()
	err = PeerDescends(conn, os.Getpid())
	require.ErrorIs(t, err, ErrNotDescendant)
	require.ErrorContains(t, err, "process") // whoever has its number now
	if _, err := io.ReadAll(conn); err != nil {
		t.Log(err)
	}
}

func TestPeerDescendsOverSomethingElse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.ErrorIs(t, PeerDescends(conn, os.Getpid()), ErrNotUnix)
}
