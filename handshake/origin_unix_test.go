//go:build linux || darwin

package handshake_test

import (
	"context"
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
	"github.com/spawnwire/spawnwire/transport"
)

func init() { roles["attaching child"] = playAttachingChild }

// expectProcess is expect for a child whose process matters, and is not said yet.
func expectProcess(t testing.TB, l *handshake.Listener) (*handshake.Expected, handshake.Ticket) {
	t.Helper()
	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Spec: []byte("orders")})
	require.NoError(t, err)
	t.Cleanup(x.Cancel)
	return x, ticket
}

// requireTalks checks that a peer is the role "child".
func requireTalks(t testing.TB, peer *handshake.Peer) {
	t.Helper()
	require.NoError(t, peer.Channel.Send(testContext(t), "got"))
	requireReceives(t, peer.Channel, "got orders")
}

// wrapped makes a role's process the child of a shell, which has a process group of its own.
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

func TestAChildThatAWrapperStartsIsLetIn(t *testing.T) {
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

func TestAProcessThatIsNotShownToBeTheChildsIsRefused(t *testing.T) {
	for name, said := range map[string]bool{"when its process is known": true, "when its process is known later": false} {
		t.Run(name, func(t *testing.T) {
			book := newLogbook()
			l := overUnix(t, handshake.ListenerConfig{Logger: book.logger()})
			x, ticket := expectProcess(t, l)
			child := start(t, "child", nil) // which has no ticket, and ends
			if said {
				x.SetPID(child.Process.Pid)
			}
			thief := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
			if !said {
				eventually(t, func() bool { return l.Held().Pending == 1 }, "it waits")
				x.SetPID(child.Process.Pid)
			}
			require.Error(t, thief.Wait())
			assert.Contains(t, thief.errs.String(), "not accepted")
			require.ErrorIs(t, x.Refused(), handshake.ErrForeignProcess)
			requirePhase(t, handshake.PhaseAuth, x.Refused())
			assert.Contains(t, book.refusals(t, 1)[0], fmt.Sprintf("process %d", thief.Process.Pid))
			select {
			case <-x.Done():
				require.Fail(t, "a stranger ended the wait")
			default:
			}

			real := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode()) // the secret still serves
			x.SetPID(real.Process.Pid)
			requireTalks(t, wait(t, x))
			real.requireSuccess(t)
		})
	}
}

func TestAChildThatIsFasterThanTheNewsOfItsStartIsLetIn(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{MaxPending: 1})
	x, ticket := expectProcess(t, l)
	child := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
	eventually(t, func() bool { return l.Held().Proved == 1 }, "it has said hello")
	var strangers []net.Conn
	for range 4 {
		strangers = append(strangers, dial(t, ticket.Addr))
	}
	for _, conn := range strangers[:3] { // two may be there at once, and one of them is the child
		requireDropped(t, conn)
	}
	x.SetPID(child.Process.Pid)
	requireTalks(t, wait(t, x))
	child.requireSuccess(t)
}

func TestWithoutSetPIDTheWaitEnds(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{HelloTimeout: enough})
	x, ticket := expectProcess(t, l)
	_, err := handshake.Join(testContext(t), dial(t, ticket.Addr), ticket, handshake.JoinConfig{})
	require.ErrorIs(t, err, handshake.ErrRefused)
	_, err = x.WaitForPeer(testContext(t))
	require.ErrorIs(t, err, handshake.ErrNoProcess)
	requirePhase(t, handshake.PhaseAuth, err)
}

func TestAConnectionFromBeforeTheChildsStartIsNotTheChilds(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	conn := dial(t, l.Addr()) // by somebody who has the child's number later
	eventually(t, func() bool { return l.Held().Pending == 1 }, "it is accepted")
	x, ticket := expectProcess(t, l)
	x.SetPID(os.Getpid())
	_, err := handshake.Join(testContext(t), conn, ticket, handshake.JoinConfig{})
	require.ErrorIs(t, err, handshake.ErrRefused)
	_, err = x.WaitForPeer(testContext(t)) // it is this very process's number
	require.ErrorIs(t, err, handshake.ErrForeignProcess)
	require.ErrorContains(t, err, "before the child was started")
}

func TestOtherProcessesAreLetInWhereThatIsAllowed(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{AllowOtherProcesses: true})
	x, ticket := expectProcess(t, l)
	x.SetPID(os.Getpid() + 1)
	child := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
	requireTalks(t, wait(t, x))
	child.requireSuccess(t)
}

// playAttachingChild joins, and attaches its control connection by way of addrEnv.
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
	if err := j.Ready(ctx, handshake.Timings{}); err != nil {
		return err
	}
	if conn, err = net.Dial("unix", os.Getenv(addrEnv)); err != nil {
		return err
	}
	control, err := j.AttachControl(ctx, conn)
	if err != nil {
		return err
	}
	defer control.Abort()
	f, err := control.ReadFrame(ctx)
	if err != nil {
		return err
	}
	fmt.Println(f.Kind)
	return nil
}

func TestTheControlConnectionMustComeFromTheChildToo(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  handshake.ListenerConfig
		want transport.Kind
	}{
		{"not from another process", handshake.ListenerConfig{}, transport.KindFailed},
		{"unless others are allowed", handshake.ListenerConfig{AllowOtherProcesses: true}, transport.KindCancel},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := overUnix(t, test.cfg)
			x, ticket := expectProcess(t, l)
			path := filepath.Join(t.TempDir(), "p")
			proxy, err := net.Listen("unix", path)
			require.NoError(t, err)
			var passing sync.WaitGroup
			passing.Go(func() { // this process stands between the child and its parent, which is it too
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
			child := start(t, "attaching child", nil, handshake.TicketEnv+"="+ticket.Encode(), addrEnv+"="+path)
			x.SetPID(child.Process.Pid)
			peer := wait(t, x)
			if err := peer.Cancel(testContext(t), transport.Cancel{}); err != nil {
				require.Equal(t, transport.KindFailed, test.want, "%v: a child that was refused may have ended", err)
			}
			assert.Equal(t, fmt.Sprintln(test.want), child.requireSuccess(t))
			require.NoError(t, proxy.Close())
			peer.Abort()
			passing.Wait()
		})
	}
}
