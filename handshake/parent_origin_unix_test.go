//go:build linux || darwin

package handshake_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

func init() { roles["attaching child"] = playAttachingChild }

// expectProcess is like expect, but the parent checks the child's process. The
// test must call SetPID.
func expectProcess(t testing.TB, l *handshake.Listener) (*handshake.Expected, handshake.Ticket) {
	t.Helper()
	x, err := l.Expect(handshake.Expectation{Spec: []byte("orders")})
	require.NoError(t, err)
	ticket := x.Ticket()
	t.Cleanup(x.Cancel)
	return x, ticket
}

// requireTalks checks that a peer plays the role "child".
func requireTalks(t testing.TB, peer *handshake.Peer) {
	t.Helper()
	require.NoError(t, peer.Channel.Send(testkit.Context(t), "got"))
	requireReceives(t, peer.Channel, "got orders")
}

// wrapped makes a role's process the child of a shell. The shell has its own
// process group.
func wrapped(script string) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		exe := c.Path
		sh, err := exec.LookPath("sh")
		if err != nil {
			panic(err)
		}
		c.Path, c.Args = sh, []string{"sh", "-c", script, exe}
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
}

func TestOrigin_ChildOfAWrapperIsAccepted(t *testing.T) {
	for name, script := range map[string]string{
		"one that executes it":            `exec "$0" -test.run='^$'`,
		"one that waits for it":           `"$0" -test.run='^$'; exit $?`,
		"one that waits for another one":  `sh -c '"$0" -test.run="^$"; exit $?' "$0"; exit $?`,
		"one between them that has ended": `(cd / && "$0" -test.run='^$' &); sleep 60`,
	} {
		t.Run(name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expectProcess(t, l)
			p := start(t, "child", wrapped(script), handshake.TicketEnv+"="+ticket.Encode())
			x.SetPID(p.Process.Pid)
			requireTalks(t, wait(t, x))
			syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
		})
	}
}

func TestOrigin_OtherProcessIsRefused(t *testing.T) {
	for name, said := range map[string]bool{"when its process is known": true,
		"when its process is known later": false} {
		t.Run(name, func(t *testing.T) {
			book := newLogbook()
			l := overUnix(t, handshake.ListenerConfig{Logger: book.logger()})
			x, ticket := expectProcess(t, l)
			child := start(t, "child", nil) // without a ticket, so it ends
			if said {
				x.SetPID(child.Process.Pid)
			}
			thief := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
			if !said {
				testkit.Eventually(t, "it waits", func() bool { return l.Held().Pending == 1 })
				x.SetPID(child.Process.Pid)
			}
			require.Error(t, thief.Wait())
			assert.Contains(t, thief.errs.String(), "not accepted")
			require.ErrorIs(t, x.Internal(access.Key{}).Refused(), handshake.ErrForeignProcess)
			requirePhase(t, handshake.PhaseAuth, x.Internal(access.Key{}).Refused())
			assert.Contains(t, book.refusals(t, 1)[0], fmt.Sprintf("process %d", thief.Process.Pid))
			select {
			case <-x.Done():
				require.Fail(t, "a stranger ended the wait")
			default:
			}

			// the secret is still valid
			real := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
			x.SetPID(real.Process.Pid)
			requireTalks(t, wait(t, x))
			real.requireSuccess(t)
		})
	}
}

func TestOrigin_HelloBeforeSetPIDIsAccepted(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{MaxPending: 1})
	x, ticket := expectProcess(t, l)
	child := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
	testkit.Eventually(t, "it has said hello", func() bool { return l.Held().Proved == 1 })
	var strangers []net.Conn
	for range 4 {
		strangers = append(strangers, dial(t, ticket.Addr))
	}
	for _, conn := range strangers[:3] { // two may be pending, and one of them is the child
		requireDropped(t, conn)
	}
	x.SetPID(child.Process.Pid)
	requireTalks(t, wait(t, x))
	child.requireSuccess(t)
}

func TestOrigin_MissingSetPIDEndsTheWait(t *testing.T) {
	t.Parallel()
	l := overUnix(t, handshake.ListenerConfig{HelloTimeout: enough})
	x, ticket := expectProcess(t, l)
	_, err := handshake.Join(testkit.Context(t), dial(t, ticket.Addr),
		ticket, handshake.JoinConfig{})
	require.ErrorIs(t, err, handshake.ErrRefused)
	_, err = x.WaitForPeer(testkit.Context(t))
	require.ErrorIs(t, err, handshake.ErrNoProcess)
	requirePhase(t, handshake.PhaseAuth, err)
}

func TestOrigin_ConnectionBeforeTheStartIsRefused(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	conn := dial(t, l.Addr()) // from the pid that the child gets later
	testkit.Eventually(t, "it is accepted", func() bool { return l.Held().Pending == 1 })
	x, ticket := expectProcess(t, l)
	x.SetPID(os.Getpid())
	_, err := handshake.Join(testkit.Context(t), conn, ticket, handshake.JoinConfig{})
	require.ErrorIs(t, err, handshake.ErrRefused)
	_, err = x.WaitForPeer(testkit.Context(t)) // although the pid is that of this process
	require.ErrorIs(t, err, handshake.ErrForeignProcess)
	require.ErrorContains(t, err, "before the child was started")
}

func TestOrigin_OtherProcessesCanBeAllowed(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{AllowOtherProcesses: true})
	x, ticket := expectProcess(t, l)
	x.SetPID(os.Getpid() + 1)
	child := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
	requireTalks(t, wait(t, x))
	child.requireSuccess(t)
}

// playAttachingChild joins, and attaches its control connection through the
// address in addrEnv.
func playAttachingChild(ctx context.Context) error {
	ticket, _, err := handshake.TakeTicket()
	if err != nil {
		return err
	}
	conn, err := net.Dial(ticket.Addr.Network(), ticket.Addr.Target)
	if err != nil {
		return err
	}
	j, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{Control: true})
	if err != nil {
		return err
	}
	defer j.Channel.Abort()
	if err := j.Ready(ctx, nil); err != nil {
		return err
	}
	if conn, err = net.Dial("unix", os.Getenv(addrEnv)); err != nil {
		return err
	}
	control, err := j.AttachControl(ctx, conn)
	if errors.Is(err, handshake.ErrRefused) {
		fmt.Println(frame.KindFailed)
		return nil
	}
	if err != nil {
		return err
	}
	defer control.Abort()
	f, err := control.Frames(access.Key{}).Read(ctx)
	if err != nil {
		return err
	}
	fmt.Println(f.Kind)
	return nil
}

func TestOrigin_OfTheControlConnectionIsChecked(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  handshake.ListenerConfig
		want frame.Kind
	}{
		{"not from another process", handshake.ListenerConfig{}, frame.KindFailed},
		{"unless others are allowed",
			handshake.ListenerConfig{AllowOtherProcesses: true}, frame.KindCancel},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := overUnix(t, test.cfg)
			x, ticket := expectProcess(t, l)
			path := filepath.Join(t.TempDir(), "p")
			proxy, err := net.Listen("unix", path)
			require.NoError(t, err)
			var passing sync.WaitGroup
			// this process, which is also the parent, relays the control connection
			passing.Go(func() {
				conn, err := proxy.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				up, err := net.Dial(l.Addr().Network(), l.Addr().Target)
				if err != nil {
					return
				}
				defer up.Close()
				passing.Go(func() { io.Copy(up, conn) })
				io.Copy(conn, up)
			})
			child := start(t, "attaching child", nil,
				handshake.TicketEnv+"="+ticket.Encode(), addrEnv+"="+path)
			x.SetPID(child.Process.Pid)
			peer := wait(t, x)
			if err := peer.Cancel(testkit.Context(t), handshake.Cancel{}); err != nil {
				require.Equal(t, frame.KindFailed, test.want,
					"%v: a child that was refused may have ended", err)
			}
			assert.Equal(t, fmt.Sprintln(test.want), child.requireSuccess(t))
			require.NoError(t, proxy.Close())
			peer.Abort()
			passing.Wait()
		})
	}
}
