package forkspawn_test

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// The points of a Release, in their order.
const (
	atAsk     point = "asked"     // the child has the request
	atTicket  point = "answered"  // the parent has the ticket
	atConfirm point = "confirmed" // the child has the parent's last word
	atLetGo   point = "released"  // the parent has the child's last word
)

func init() {
	moreEntries["lets-go-faultily"] = letsGoFaultily
	moreEntries["releases-faultily"] = releasesFaultily
}

// letsGoFaultily is a child that answers a request of Release and fails at a point.
func letsGoFaultily(ctx context.Context, parent *forkspawn.Parent) error {
	var at point
	var do fault
	var order string
	if err := parent.Spec().DecodeArgs(&order); err != nil {
		return err
	}
	first, second, _ := strings.Cut(order, "/")
	at, do = point(first), fault(second)
	conns, err := forkspawn.ReceiveConns(ctx, forkspawn.NextConn(parent), 1)
	if err != nil {
		return err
	}
	ch := transport.New(conns[0], transport.Config{})
	reached := func(p point) {
		if p != at {
			return
		}
		switch do {
		case exitThree:
			os.Exit(3)
		case killed:
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case stops:
			syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		case closes:
			ch.Abort()
		}
		select {} // stalls
	}
	go func() {
		var lease int64
		var last bool
		ch.Recv(ctx, &lease)
		reached(atAsk)
		ch.Send(ctx, forkspawn.ReleaseAnswer{
			Ticket: "1 id " + strings.Repeat("5e", 32) + " uds:///nowhere"})
		reached(atTicket)
		ch.Recv(ctx, &last)
		reached(atConfirm)
	}()
	<-ctx.Done()
	return nil
}

// The child fails at each point of a Release. The parent gets an error, and it still has
// the child, or knows its exit status.
func TestFaultTable_ChildFailsInRelease(t *testing.T) {
	spawntest.NoLeaks(t)
	t.Cleanup(forkspawn.SetConfirmBound(time.Second))
	s := newSpawner(t, releasable(forkspawn.Config{StopGrace: short, TermGrace: short}))
	for _, at := range []point{atAsk, atTicket, atConfirm} {
		for _, do := range []fault{exitThree, killed, closes, stalls, stops} {
			t.Run(string(at)+"/"+string(do), func(t *testing.T) {
				t.Parallel()
				c := spawn(t, s, spawnspec.Spec{Entry: "lets-go-faultily",
					Args: string(at) + "/" + string(do)})
				defer c.Kill()
				ctx := testkit.Context(t)
				waits := do == stalls || do == stops
				if waits && at == atAsk {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
					defer cancel()
				}
				_, err := c.Release(ctx, longLease)
				require.Error(t, err)
				t.Log(err)
				var exit *forkspawn.ExitError
				switch {
				case do == exitThree:
					require.ErrorAs(t, err, &exit)
					assert.Equal(t, forkspawn.ExitedStatus(3), exit.Status)
				case do == killed, waits && at != atAsk: // it had to be killed
					require.ErrorAs(t, err, &exit)
					assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), exit.Status)
				case waits:
					assert.ErrorIs(t, err, context.DeadlineExceeded)
					assert.True(t, running(c.PID()))
				default:
					assert.ErrorIs(t, err, transport.ErrPeerGone)
					assert.True(t, running(c.PID()))
				}
			})
		}
	}
}

// releaseTo plays a parent's Release to a point, and returns the channel of the request.
func releaseTo(ctx context.Context, c *forkspawn.Child, at point, lease time.Duration) (
	ch *transport.Channel, text string, err error,
) {
	near, far, err := unixsock.Pair()
	if err != nil {
		return nil, "", err
	}
	defer far.Close()
	ch = transport.New(near, transport.Config{})
	if err = forkspawn.SendConns(ctx, forkspawn.ReleaseConn(c), far); err != nil {
		return ch, "", err
	}
	if err = ch.Send(ctx, int64(lease)); err != nil || at == atAsk {
		return ch, "", err
	}
	var answer forkspawn.ReleaseAnswer
	if err = ch.Recv(ctx, &answer); err != nil || at == atTicket {
		return ch, answer.Ticket, err
	}
	if err = ch.Send(ctx, true); err != nil || at == atConfirm {
		return ch, answer.Ticket, err
	}
	return ch, answer.Ticket, ch.Recv(ctx, new(forkspawn.ReleaseAnswer))
}

// releasesFaultily is a parent that dies at a point of a Release.
func releasesFaultily(ctx context.Context, parent *forkspawn.Parent) error {
	var order string
	if err := parent.Spec().DecodeArgs(&order); err != nil {
		return err
	}
	at, without, _ := strings.Cut(order, "/")
	s, err := forkspawn.New(releasable(forkspawn.Config{NoParentDeathSignal: without != ""}))
	if err != nil {
		return err
	}
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "keeps-count"})
	if err != nil {
		return err
	}
	if err := parent.Send(ctx, c.PID()); err != nil {
		return err
	}
	if _, _, err := releaseTo(ctx, c, point(at), time.Second); err != nil {
		return err
	}
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// The parent dies at each point of a Release. The child ends with it, or with its lease.
func TestFaultTable_ParentDiesInRelease(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t)
	hosts := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec})
	for _, at := range []point{atAsk, atTicket, atConfirm, atLetGo} {
		for _, without := range []string{"", "without the kernel's help"} {
			t.Run(string(at)+"/"+without, func(t *testing.T) {
				t.Parallel()
				host := spawn(t, hosts, spawnspec.Spec{Entry: "releases-faultily",
					Args: string(at) + "/" + without})
				defer host.Kill()
				var pid int
				require.NoError(t, host.Recv(testkit.Context(t), &pid))
				status, err := host.Wait(testkit.Context(t))
				require.NoError(t, err)
				assert.Equal(t, syscall.SIGKILL, status.Signal())
				testkit.Eventually(t, "it ends", func() bool { return !running(pid) })
			})
		}
	}
}

// The parent gives up at each point of a Release. The child stays its child.
func TestFaultTable_ParentGivesUpInRelease(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
	for i, at := range []point{atAsk, atTicket, atAsk} {
		ch, _, err := releaseTo(testkit.Context(t), c, at, 200*time.Millisecond)
		require.NoError(t, err)
		ch.Abort()
		add(t, c, 1, i+1)
	}
	time.Sleep(3 * time.Second) // longer than the lease, and the kernel's patience
	add(t, c, 1, 4)
	again := reattach(t, s, release(t, c, longLease))
	add(t, again, 1, 5)
}

// Clients of a released child that are not its next parent change nothing.
func TestFaultTable_ParentFailsInReattach(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
	add(t, c, 1, 1)
	h := release(t, c, longLease)
	text, err := h.MarshalText()
	require.NoError(t, err)
	dial := func() *net.UnixConn {
		conn, err := net.Dial("unix", h.Ticket().Addr.Target)
		require.NoError(t, err)
		return conn.(*net.UnixConn)
	}
	for name, visit := range map[string]func(){
		"dials and leaves": func() {},
		"sends garbage": func() {
			conn := dial()
			defer conn.Close()
			conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		},
		"sends too few connections": func() {
			conn := dial()
			defer conn.Close()
			near, far, err := unixsock.Pair()
			require.NoError(t, err)
			defer near.Close()
			defer far.Close()
			require.NoError(t, forkspawn.SendConns(testkit.Context(t), conn, far))
		},
		"leaves after the connections": func() {
			conn := dial()
			defer conn.Close()
			near, far, err := unixsock.Pair()
			require.NoError(t, err)
			defer near.Close()
			defer far.Close()
			require.NoError(t, forkspawn.SendConns(testkit.Context(t), conn, far, far, far))
		},
		"has another secret": func() {
			var other forkspawn.Handle
			fields := strings.Split(string(text), " ")
			fields[4] = strings.Repeat("5e", 32)
			require.NoError(t, other.UnmarshalText([]byte(strings.Join(fields, " "))))
			_, err := s.Reattach(testkit.Context(t), other)
			require.Error(t, err)
			assert.NotContains(t, err.Error(), fields[4])
			t.Log(err)
		},
	} {
		t.Run(name, func(*testing.T) { visit() })
	}
	require.NoError(t, syscall.Kill(c.PID(), syscall.SIGSTOP))
	testkit.Eventually(t, "it is stopped", func() bool { return allStopped(c.PID()) })
	ctx, cancel := context.WithTimeout(testkit.Context(t), 300*time.Millisecond)
	defer cancel()
	_, err = s.Reattach(ctx, h)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	t.Log(err)
	require.NoError(t, syscall.Kill(c.PID(), syscall.SIGCONT))
	again := reattach(t, s, h)
	add(t, again, 2, 3)
}

// A parent that dies after its spec, and before the child is ready, does not stop the
// lease.
func TestFaultTable_ParentDiesInReattach(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t)
	s := newSpawner(t, releasable(forkspawn.Config{}))
	c := spawn(t, s, spawnspec.Spec{Entry: "keeps-count"})
	h := release(t, c, 3*time.Second)
	text, err := h.MarshalText()
	require.NoError(t, err)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	parent, err := handshake.Listen(ln, handshake.ListenerConfig{})
	require.NoError(t, err)
	defer parent.Close()
	spec, err := spawnspec.Marshal(&spawnspec.Spec{Name: "keeper", Entry: "keeps-count",
		Method: "exec", Depth: 1})
	require.NoError(t, err)
	x, err := parent.Expect(handshake.Expectation{Spec: spec, Internal: access.ExpectOptions{
		Ticket: strings.SplitN(string(text), " ", 3)[2]}})
	require.NoError(t, err)
	defer x.Cancel()

	conn, err := net.Dial("unix", h.Ticket().Addr.Target)
	require.NoError(t, err)
	defer conn.Close()
	var ends [4][2]net.Conn // message, control, requests; between this test and the parent
	for i := range ends {
		ends[i][0], ends[i][1], err = unixsock.Pair()
		require.NoError(t, err)
		defer ends[i][0].Close()
		defer ends[i][1].Close()
	}
	require.NoError(t, forkspawn.SendConns(testkit.Context(t), conn,
		ends[0][1], ends[1][1], ends[2][1]))
	for i := range 3 {
		ends[i][1].Close()
	}
	x.Internal(access.Key{}).UsePair(ends[3][1], nil)
	hello := make([]byte, 1<<10)
	n, err := ends[0][0].Read(hello)
	require.NoError(t, err)
	_, err = ends[3][0].Write(hello[:n])
	require.NoError(t, err)
	answer := make([]byte, 4<<10) // welcome and spec
	n, err = ends[3][0].Read(answer)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(c.PID(), syscall.SIGSTOP))
	testkit.Eventually(t, "it is stopped", func() bool { return allStopped(c.PID()) })
	_, err = ends[0][0].Write(answer[:n])
	require.NoError(t, err)
	for i := range 3 {
		ends[i][0].Close()
	}
	require.NoError(t, syscall.Kill(c.PID(), syscall.SIGCONT))
	status, err := c.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.Contains(t, []int{1, 125}, status.Code(), "%v", status)
}
