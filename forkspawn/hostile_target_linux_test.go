package forkspawn_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// helper is a process in a role. The end of its stdin ends it.
type helper struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout io.Reader
}

func startHelper(t testing.TB, name string, env ...string) *helper {
	t.Helper()
	h := &helper{cmd: testkit.RoleCommand(t, name)}
	h.cmd.Env = append(h.cmd.Env, env...)
	h.cmd.Stderr = os.Stderr
	var err error
	h.stdin, err = h.cmd.StdinPipe()
	require.NoError(t, err)
	h.stdout, err = h.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, h.cmd.Start())
	t.Cleanup(func() {
		h.stdin.Close()
		h.cmd.Wait() // after stop or damage it returns an error at once
	})
	return h
}

// stop ends the process.
func (h *helper) stop(t testing.TB) {
	t.Helper()
	h.stdin.Close()
	require.NoError(t, h.cmd.Wait())
}

// startAttack starts an attack in a process of its own.
func startAttack(t testing.TB, a roles.Attack) *helper {
	t.Helper()
	text, err := json.Marshal(a)
	require.NoError(t, err)
	return startHelper(t, "attacks", roles.AttackEnv+"="+string(text))
}

// damage ends an attack and returns its result.
func (h *helper) damage(t testing.TB) (d roles.Damage) {
	t.Helper()
	h.stdin.Close()
	require.NoError(t, json.NewDecoder(h.stdout).Decode(&d))
	require.NoError(t, h.cmd.Wait())
	return d
}

// target is a live Spawner under attack.
type target struct {
	s     *forkspawn.Spawner
	lines atomic.Int64 // in its log
}

func newTarget(t *testing.T, listen transport.Addr) *target {
	x := new(target)
	x.s = newSpawner(t, forkspawn.Config{
		Listen: listen, Stdout: forkspawn.Null(), Stderr: forkspawn.Capture(nil),
		BootTimeout: bound, StopGrace: bound,
		Logger: slog.New(slog.NewTextHandler(countedLines{&x.lines},
			&slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	return x
}

type countedLines struct{ n *atomic.Int64 }

func (c countedLines) Write(b []byte) (int, error) {
	c.n.Add(1)
	return len(b), nil
}

// spawnTimes are the durations of spawns.
type spawnTimes []time.Duration

func (s spawnTimes) String() string {
	if len(s) == 0 {
		return "-"
	}
	slices.Sort(s)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%.1f/%.1f", ms(s[len(s)/2]), ms(s[len(s)*99/100]))
}

// spawnFor spawns one child after the other, and exchanges messages with each.
func (x *target) spawnFor(t *testing.T, d time.Duration) (took spawnTimes) {
	t.Helper()
	for began := time.Now(); time.Since(began) < d; {
		spawned := time.Now()
		c, err := x.s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
		took = append(took, time.Since(spawned))
		require.NoError(t, err)
		var got string
		require.NoError(t, c.Send(testkit.Context(t), "hello"))
		require.NoError(t, c.Recv(testkit.Context(t), &got))
		result, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		require.Equal(t, forkspawn.Asked, result.By, "its control connection is let in too")
	}
	return took
}

// watchFigures measures this process until the returned function is called. That
// function returns the largest figures.
func watchFigures(t *testing.T) func() figures {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var most figures
	var wg sync.WaitGroup
	t.Cleanup(func() { // for a test that has failed before
		cancel()
		wg.Wait()
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			var size, pages int64
			if b, err := os.ReadFile("/proc/self/statm"); err == nil {
				fmt.Sscan(string(b), &size, &pages)
			}
			most.resident = max(most.resident, pages*int64(os.Getpagesize()))
			if names, err := os.ReadDir("/proc/self/fd"); err == nil {
				most.descriptors = max(most.descriptors, len(names))
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return func() figures {
		cancel()
		wg.Wait()
		return most
	}
}

// expectedChild is a child that is started and joins when join is called. The
// test knows its ticket.
type expectedChild struct {
	ticket handshake.Ticket
	file   string
	cancel context.CancelFunc
	child  chan *forkspawn.Child
	err    chan error
}

func (x *target) expectChild(t *testing.T) *expectedChild {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	e := &expectedChild{file: filepath.Join(t.TempDir(), "ticket"),
		child: make(chan *forkspawn.Child, 1), err: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	cmd := forkspawn.Command{Path: "sh", Args: []string{"-c",
		`printf %s "$SPAWNWIRE_TICKET" >"$0.part"; mv "$0.part" "$0"; until [ -e "$0.go" ]; do sleep 0.01; done; exec "$1"`, e.file, exe}}
	go func() {
		c, err := x.s.Spawn(ctx, spawnspec.Spec{Name: "expected", Entry: "echo"},
			forkspawn.WithCommand(cmd))
		e.child <- c
		e.err <- err
	}()
	testkit.Eventually(t, "it has its ticket", func() bool {
		text, err := os.ReadFile(e.file)
		if err != nil {
			return false
		}
		e.ticket, err = handshake.ParseTicket(string(text))
		return assert.NoError(t, err)
	})
	return e
}

// join lets the child join.
func (e *expectedChild) join(t *testing.T) {
	t.Helper()
	require.NoError(t, os.WriteFile(e.file+".go", nil, 0o600))
	require.NotNil(t, <-e.child)
	require.NoError(t, <-e.err)
	e.err <- nil
	e.child <- nil
}

// end cancels the Spawn of the child, and returns its error.
func (e *expectedChild) end(t *testing.T) error {
	t.Helper()
	e.cancel()
	assert.Nil(t, <-e.child, "an attacker has joined")
	return <-e.err
}

// withSecretOf returns a ticket with the secret of another one's text.
func withSecretOf(t handshake.Ticket, text string) handshake.Ticket {
	t, err := withSecret(t, strings.SplitN(text, " ", 4)[2])
	if err != nil {
		panic(err)
	}
	return t
}

// wrongTicket has a secret that no child has.
var wrongTicket = "1 x " + strings.Repeat("5e", 32) + " uds:///x"

// helloOf returns the hello of a child with the ticket.
func helloOf(t *testing.T, ticket handshake.Ticket) []byte {
	t.Helper()
	near, far := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := handshake.Join(testkit.Context(t), near, ticket,
			handshake.JoinConfig{Control: true})
		assert.Error(t, err)
	})
	var header [5]byte
	_, err := io.ReadFull(far, header[:])
	require.NoError(t, err)
	b := append(header[:], make([]byte, binary.LittleEndian.Uint32(header[:])-1)...)
	_, err = io.ReadFull(far, b[len(header):])
	require.NoError(t, err)
	far.Close()
	wg.Wait()
	return b
}
