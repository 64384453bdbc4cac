//go:build linux || darwin

package handshake_test

import (
	"bufio"
	"bytes"
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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

func init() {
	roles["child"] = playChild
	roles["impostor"] = playImpostor
	roles["starved parent"] = playStarvedParent
	roles["same-user peer"] = playSameUserPeer
}

// addrEnv is the environment variable with the address for roles without a ticket.
const addrEnv = "HANDSHAKE_TEST_ADDR"

// program is a process started by a test.
type program struct {
	*exec.Cmd
	out, errs bytes.Buffer
}

// start runs this test binary in a role. A cleanup kills it.
func start(t *testing.T, role string, change func(*exec.Cmd), env ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	p := &program{Cmd: exec.Command(exe, "-test.run=^$")}
	p.Env = append(os.Environ(), append(env, roleEnv+"="+role, "GORACE=atexit_sleep_ms=0")...)
	p.Stdout, p.Stderr = &p.out, &p.errs
	p.WaitDelay = patience
	if change != nil {
		change(p.Cmd)
	}
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait() // a second Wait returns an error and does no harm
	})
	return p
}

func (p *program) requireSuccess(t *testing.T) string {
	t.Helper()
	require.NoError(t, p.Wait(), "%s", &p.errs)
	return p.out.String()
}

// playChild is a well-behaved child in a process of its own.
func playChild(ctx context.Context) error {
	ticket, ok, err := handshake.TakeTicket()
	if !ok || err != nil {
		return fmt.Errorf("no ticket: %w", err)
	}
	conn, err := dialAddr(ctx, ticket.Addr)
	if err != nil {
		return err
	}
	j, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{Name: "child"})
	if err != nil {
		return err
	}
	defer j.Channel.Close()
	if err := j.Ready(ctx, nil); err != nil {
		return err
	}
	var word string
	if err := j.Channel.Recv(ctx, &word); err != nil {
		return err
	}
	return j.Channel.Send(ctx, word+" "+string(j.Spec))
}

// playImpostor has the right id but not the secret. It fails unless it is refused.
func playImpostor(ctx context.Context) error {
	ticket, _, err := handshake.TakeTicket()
	if err != nil {
		return err
	}
	ticket = handshake.NewTicket(ticket.Addr, ticket.ID)
	conn, err := dialAddr(ctx, ticket.Addr)
	if err != nil {
		return err
	}
	_, err = handshake.Join(ctx, conn, ticket, handshake.JoinConfig{})
	if !errors.Is(err, handshake.ErrRefused) {
		return fmt.Errorf("not refused: %w", err)
	}
	io.Copy(io.Discard, os.Stdin) // stay alive, so that the parent cannot report an exit instead
	return nil
}

func TestProcess_OfAChildJoins(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		ctx := testkit.Context(t)
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, []byte("orders"))
		child := start(t, "child", nil, handshake.TicketEnv+"="+ticket.Encode())
		x.SetPID(child.Process.Pid)
		peer := wait(t, x)
		assert.Equal(t, child.Process.Pid, peer.PID)
		require.NoError(t, peer.Channel.Send(ctx, "got"))
		requireReceives(t, peer.Channel, "got orders")
		child.requireSuccess(t)
	})
}

func TestOwnProcess_RefusalIsReportedAtOnce(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	x.SetPID(os.Getpid()) // not the impostor
	impostor := func() *program {
		return start(t, "impostor", holdStdin(t), handshake.TicketEnv+"="+ticket.Encode())
	}
	impostor()
	testkit.Eventually(t, "it is refused", func() bool {
		return x.Internal(access.Key{}).Refused() != nil
	})
	assert.Equal(t, handshake.PhaseConnect, x.Phase())
	select {
	case <-x.Done():
		require.Fail(t, "a stranger's refusal ended the wait")
	default:
	}

	p := impostor()
	x.SetPID(p.Process.Pid)
	_, err := x.WaitForPeer(testkit.Context(t))
	require.ErrorIs(t, err, handshake.ErrBadMAC)
	requirePhase(t, handshake.PhaseAuth, err)
}

// holdStdin keeps a process's standard input open until the test ends.
func holdStdin(t *testing.T) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		t.Cleanup(func() { r.Close(); w.Close() })
		c.Stdin = r
	}
}

// copyOfThisBinary copies the test binary to a directory in which every user can
// run it.
func copyOfThisBinary(t *testing.T) (dir, exe string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	from, err := os.Open(self)
	require.NoError(t, err)
	defer from.Close()
	dir, err = os.MkdirTemp("", "hs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	exe = filepath.Join(dir, "x")
	// No other test may start a process now, because the process would inherit the
	// file opened for writing, and running the file would fail with ETXTBSY.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	to, err := os.OpenFile(exe, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, errors.Join(err, to.Close()))
	return dir, exe
}

// otherUser is usually nobody. Any user but the one that runs the tests will do.
const otherUser = 65534

// asOtherUser runs a process as otherUser.
func asOtherUser(exe string) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.Path = exe
		c.Dir = "/"
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser,
			Gid: otherUser, NoSetGroups: true}}
	}
}

// listenForEveryone listens on a Unix socket open to all users.
func listenForEveryone(t *testing.T, dir string, cfg handshake.ListenerConfig) *handshake.Listener {
	t.Helper()
	path := filepath.Join(dir, "s")
	ln, err := uds.Listen(testkit.Context(t),
		transport.Addr{Scheme: transport.SchemeUDS, Target: path})
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o777))
	l, err := handshake.Listen(ln, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start another user's process")
	}
}

func TestOtherUser_IsRefused(t *testing.T) {
	requireRoot(t)
	dir, exe := copyOfThisBinary(t)
	book := newLogbook()
	l := listenForEveryone(t, dir, handshake.ListenerConfig{Logger: book.logger()})
	x, ticket := expect(t, l, nil)
	// the parent refuses it even with the right ticket
	child := start(t, "child", asOtherUser(exe), handshake.TicketEnv+"="+ticket.Encode())
	e := book.with(t, 1, saysRefused)[0]
	assert.Contains(t, e.attrs["reason"], handshake.ErrForeignUser.Error())
	assert.Contains(t, e.attrs["reason"], fmt.Sprint(otherUser))
	assert.Equal(t, fmt.Sprint(child.Process.Pid), e.attrs["pid"])
	require.Error(t, child.Wait())
	assert.Equal(t, handshake.PhaseConnect, x.Phase())
	requireJoins(t, x, ticket)
}

func TestOtherUser_CanBeAllowed(t *testing.T) {
	requireRoot(t)
	dir, exe := copyOfThisBinary(t)
	l := listenForEveryone(t, dir, handshake.ListenerConfig{AllowOtherUsers: true})
	x, ticket := expect(t, l, []byte("orders"))
	child := start(t, "child", asOtherUser(exe), handshake.TicketEnv+"="+ticket.Encode())
	peer := wait(t, x)
	require.NoError(t, peer.Channel.Send(testkit.Context(t), "got"))
	requireReceives(t, peer.Channel, "got orders")
	child.requireSuccess(t)
}

// playSameUserPeer connects to a peer with SameUser. It prints whether the error
// is ErrForeignUser, and the error.
func playSameUserPeer(ctx context.Context) error {
	conn, err := net.Dial("unix", os.Getenv(addrEnv))
	if err != nil {
		return err
	}
	_, err = handshake.ConnectPeer(ctx, conn, handshake.PeerConfig{SameUser: true})
	fmt.Println(errors.Is(err, handshake.ErrForeignUser), err)
	return nil
}

func TestOtherUser_IsNotTheSameUser(t *testing.T) {
	requireRoot(t)
	dir, exe := copyOfThisBinary(t)
	path := filepath.Join(dir, "p")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer ln.Close()
	require.NoError(t, os.Chmod(path, 0o777))
	child := start(t, "same-user peer", asOtherUser(exe), addrEnv+"="+path)
	conn, err := ln.Accept()
	require.NoError(t, err)
	_, err = handshake.AcceptPeer(testkit.Context(t), conn, handshake.PeerConfig{SameUser: true})
	require.ErrorIs(t, err, handshake.ErrForeignUser)
	assert.Contains(t, child.requireSuccess(t), "true")
}

// TestAccept_WaitsForDescriptors runs a parent in its own process, because that
// process must have no descriptors left.
func TestAccept_WaitsForDescriptors(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		p := start(t, "starved parent", nil, addrEnv+"="+n.name)
		lines := bufio.NewScanner(bytes.NewReader([]byte(p.requireSuccess(t))))
		require.True(t, lines.Scan(), "%s", &p.errs)
		assert.Equal(t, "joined", lines.Text())
	})
}

func playStarvedParent(ctx context.Context) (err error) {
	book := newLogbook()
	var ln net.Listener
	if os.Getenv(addrEnv) == networks[0].name {
		dir, err := unixsock.NewDir()
		if err != nil {
			return err
		}
		defer dir.Remove()
		if ln, err = uds.Listen(ctx,
			transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("l")}); err != nil {
			return err
		}
	} else if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	l, err := handshake.Listen(ln, handshake.ListenerConfig{Logger: book.logger()})
	if err != nil {
		return err
	}
	defer l.Close()
	x, err := l.Expect(handshake.Expectation{})
	if err != nil {
		return err
	}
	ticket := x.Ticket()
	defer x.Cancel()
	x.SetPID(os.Getpid())

	// After the dial, this process can open no descriptor, because those below the
	// limit are in use. The runtime does not change that by opening and closing
	// others. The child's end, in this process, gets its descriptor just before.
	var plenty syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &plenty); err != nil {
		return err
	}
	none := plenty
	none.Cur = 3
	dialer := net.Dialer{Control: func(string, string, syscall.RawConn) error {
		return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none)
	}}
	conn, err := dialer.DialContext(ctx, ticket.Addr.Network(), ticket.Addr.Target)
	if err != nil {
		return err
	}
	if f, err := os.Open(os.DevNull); !errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("there are descriptors: %v, %w", f, err)
	}
	var child sync.WaitGroup
	defer child.Wait()
	child.Go(func() {
		j, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{})
		if err == nil {
			err = j.Ready(ctx, nil)
			defer j.Channel.Abort()
		}
		if err != nil {
			fmt.Println("child:", err)
		}
	})

	const tries = 6
	entries, err := book.await(ctx, tries, saysAcceptFailed)
	if err != nil {
		return err
	}
	// Each pause is twice the one before: 5, 10, 20, 40 and 80 ms between six tries.
	if took := entries[tries-1].at.Sub(entries[0].at); took < 155*time.Millisecond {
		return fmt.Errorf("%d tries in %v: the loop spins", tries, took)
	}
	if err := l.AcceptErr(); !errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("AcceptErr is %v", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &plenty); err != nil {
		return err
	}
	peer, err := x.WaitForPeer(ctx)
	if err != nil {
		return fmt.Errorf("with descriptors again: %w", err)
	}
	defer peer.Abort()
	if err := l.AcceptErr(); err != nil {
		return fmt.Errorf("AcceptErr is still %w", err)
	}
	fmt.Println("joined")
	return nil
}
