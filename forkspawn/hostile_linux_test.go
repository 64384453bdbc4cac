package forkspawn_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// attackFor is how long each attack of TestHostileClients takes.
var attackFor = flag.Duration("attack", 0, "how long each attack of TestHostileClients takes, and is compared with; 0 is a moment, with no comparison")

// hostile are the attacks. Those that say a hello say one that is made from the ticket of a child that is expected, or was.
var hostile = []struct {
	name    string
	how     string
	hello   func(mine, other handshake.Ticket) handshake.Ticket // nil: none
	used    bool                                                // the child of the ticket is there already
	refused error                                               // why, as the expected child's BootError says; nil: it does not say
	unix    bool                                                // there is no such thing over TCP
}{
	{name: "1,000 silent connections", how: "silent"},
	{name: "200 that send a byte per second", how: "drip"},
	{name: "frames announced as 4 GiB", how: "huge"},
	{name: "a valid hello, replayed", how: "hello", used: true,
		hello: func(mine, _ handshake.Ticket) handshake.Ticket { return mine }},
	{name: "the right id with a wrong secret", how: "hello", refused: handshake.ErrBadMAC,
		hello: func(mine, _ handshake.Ticket) handshake.Ticket { mine.Secret[0] ^= 1; return mine }},
	{name: "the hello of another child", how: "hello", refused: handshake.ErrBadMAC,
		hello: func(mine, other handshake.Ticket) handshake.Ticket { mine.Secret = other.Secret; return mine }},
	{name: "a valid hello from another process", how: "hello", refused: handshake.ErrForeignProcess, unix: true,
		hello: func(mine, _ handshake.Ticket) handshake.Ticket { return mine }},
	{name: "10,000 connects a second", how: "flood"},
	{name: "100 descriptors with each byte", how: "descriptors", unix: true},
	{name: "half-open and reset connections", how: "half"},
	{name: "junk without end", how: "junk"},
}

// TestHostileClients attacks a live Spawner while it spawns. What it takes to fail is a child that is not let in, a stranger
// who is, memory, descriptors or log lines without bound; never a time. For the table in docs/SECURITY.md:
//
//	go test -v -count=1 -timeout 30m -run 'TestHostileClients$' ./forkspawn -attack 10s
//
// "Beside" is how long a spawn takes when the same attacker attacks another process's socket: what is more in "under" is the Spawner's
// own doing.
func TestHostileClients(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	spawntest.NoLeaks(t)
	var table strings.Builder
	fmt.Fprintf(&table, "%-36s %-4s %9s  %13s %13s %13s  %9s %9s %5s\n", "attack", "over", "connect/s", "quiet p50/p99", "beside", "under", "heap KiB", "RSS KiB", "lines")
	networks(t, func(t *testing.T, listen transport.Addr) {
		for _, h := range hostile {
			scheme := listen.Scheme
			if listen.IsZero() {
				scheme = transport.SchemeUDS
			}
			if h.unix && scheme != transport.SchemeUDS || h.hello != nil && scheme == transport.SchemeTLS { // the attacker speaks no TLS
				continue
			}
			t.Run(h.name, func(t *testing.T) {
				target := newTarget(t, listen)
				a := attack{How: h.how, For: max(*attackFor, 200*time.Millisecond), Addr: target.s.Addr()}
				if h.hello != nil {
					mine, other := target.expectChild(t), target.expectChild(t)
					a.Say = helloOf(t, h.hello(mine.ticket, other.ticket))
					if h.used {
						mine.join(t)
					}
					defer func() {
						for _, x := range []*expectedChild{mine, other} {
							err := x.end(t)
							if x == mine && h.refused != nil {
								assert.ErrorIs(t, err, h.refused)
							}
						}
					}()
				}
				var quiet, beside spawnTimes
				if *attackFor > 0 {
					quiet = target.spawnFor(t, *attackFor)
					bystander := startHelper(t, "bystander", listen.String())
					line, err := bufio.NewReader(bystander.stdout).ReadString('\n')
					require.NoError(t, err)
					unrelated := a
					require.NoError(t, unrelated.Addr.UnmarshalText([]byte(strings.TrimSpace(line))))
					attacker := startAttack(t, unrelated)
					beside = target.spawnFor(t, *attackFor)
					attacker.damage(t)
					bystander.stop(t)
				}

				before := measure(t)
				watch := watchFigures(t)
				attacker := startAttack(t, a)
				began := time.Now()
				under := target.spawnFor(t, a.For)
				took := time.Since(began)
				done := attacker.damage(t)
				peak := watch()
				var after figures
				eventually(t, "what strangers took is given back", func() bool { // their last connections are seen to end after they do
					after = measure(t)
					return after.heap-before.heap < 16<<20
				})

				assert.Positive(t, done.Connects)
				assert.Less(t, peak.resident-before.resident, int64(256<<20), "memory under the attack")
				pending := handshake.DefaultMaxPending
				if h.how == "descriptors" {
					pending = 100 // connections, on which a hundred times as many are sent with each byte
				}
				assert.Less(t, peak.descriptors-before.descriptors, pending+100, "one for each connection, and those of a spawn")
				assert.LessOrEqual(t, int(target.lines.Load()), 12*(1+int(took/(10*time.Second))+1), "lines in the log")
				fmt.Fprintf(&table, "%-36s %-4s %9.0f  %13s %13s %13s  %9d %9d %5d\n", h.name, scheme, float64(done.Connects)/took.Seconds(),
					quiet, beside, under, (after.heap-before.heap)>>10, (peak.resident-before.resident)>>10, target.lines.Load())
			})
		}
	})
	t.Logf("spawn to ready in ms, on %d CPUs; heap is what is left of the Spawner's growth, RSS the most that there was\n%s", runtime.NumCPU(), &table)
}

// target is a live Spawner under attack.
type target struct {
	s     *forkspawn.Spawner
	lines atomic.Int64 // in its log
}

func newTarget(t *testing.T, listen transport.Addr) *target {
	x := new(target)
	x.s = newSpawner(t, forkspawn.Config{
		Listen: listen, Stdout: forkspawn.Null(), Stderr: forkspawn.Capture(nil), BootTimeout: bound, StopGrace: bound,
		Logger: slog.New(slog.NewTextHandler(countedLines{&x.lines}, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	return x
}

type countedLines struct{ n *atomic.Int64 }

func (c countedLines) Write(b []byte) (int, error) {
	c.n.Add(1)
	return len(b), nil
}

// spawnTimes are how long spawns took.
type spawnTimes []time.Duration

func (s spawnTimes) String() string {
	if len(s) == 0 {
		return "-"
	}
	slices.Sort(s)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%.1f/%.1f", ms(s[len(s)/2]), ms(s[len(s)*99/100]))
}

// spawnFor spawns one child after the other, and talks to each.
func (x *target) spawnFor(t *testing.T, d time.Duration) (took spawnTimes) {
	t.Helper()
	for began := time.Now(); time.Since(began) < d; {
		spawned := time.Now()
		c, err := x.s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
		took = append(took, time.Since(spawned))
		require.NoError(t, err)
		var got string
		require.NoError(t, c.Send(testContext(t), "hello"))
		require.NoError(t, c.Recv(testContext(t), &got))
		result, err := c.Stop(testContext(t))
		require.NoError(t, err)
		require.Equal(t, forkspawn.EndedAsked, result.By, "its control connection is let in too")
	}
	return took
}

// watchFigures looks at what this process has until the returned function is called, which returns the most that there was.
func watchFigures(t *testing.T) func() figures {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var most figures
	var wg sync.WaitGroup
	t.Cleanup(func() { // of a test that has failed
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

// expectedChild is a child that is started and does not join until it is told to, and whose ticket the test knows.
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
	e := &expectedChild{file: filepath.Join(t.TempDir(), "ticket"), child: make(chan *forkspawn.Child, 1), err: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	cmd := forkspawn.Command{Path: "sh", Args: []string{"-c",
		`printf %s "$SPAWNWIRE_TICKET" >"$0.part"; mv "$0.part" "$0"; until [ -e "$0.go" ]; do sleep 0.01; done; exec "$1"`, e.file, exe}}
	go func() {
		c, err := x.s.SpawnCommand(ctx, cmd, spawnspec.Spec{Name: "expected", Entry: "echo"})
		e.child <- c
		e.err <- err
	}()
	eventually(t, "it has its ticket", func() bool {
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

// end gives the child up, and returns what its Spawn returned.
func (e *expectedChild) end(t *testing.T) error {
	t.Helper()
	e.cancel()
	assert.Nil(t, <-e.child, "a stranger was let in")
	return <-e.err
}

// helloOf returns the bytes with which a child that has the ticket begins.
func helloOf(t *testing.T, ticket handshake.Ticket) []byte {
	t.Helper()
	near, far := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := handshake.Join(testContext(t), near, ticket, handshake.JoinConfig{Control: true})
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

// TestAChildBehindAWrapperIsLetInByItsDescent starts children through programs that start others.
func TestAChildBehindAWrapperIsLetInByItsDescent(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{BootTimeout: bound, StopGrace: 100 * time.Millisecond})
	exe, err := os.Executable()
	require.NoError(t, err)
	for name, cmd := range map[string]forkspawn.Command{
		"env and nice, which become it":         {Path: "env", Args: []string{"nice", exe}},
		"a shell that waits":                    {Path: "sh", Args: []string{"-c", `"$0"; exit $?`, exe}},
		"a program that gives it a new session": {Path: "setsid", Args: []string{"--fork", "--wait", exe}},
		"one that is orphaned in the group":     {Path: "sh", Args: []string{"-c", `exec 3<&0; (cd / && "$0" &); sleep 60`, exe}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Name: "x", Entry: "echo"})
			require.NoError(t, err)
			var got string
			require.NoError(t, c.Send(testContext(t), "hello"))
			require.NoError(t, c.Recv(testContext(t), &got))
			var exit *forkspawn.ExitError
			if _, err := c.Stop(testContext(t)); err != nil {
				require.True(t, errors.As(err, &exit), "%v", err)
			}
		})
	}
}
