//go:build unix

package forkspawn_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func start(t testing.TB, s *forkspawn.Spawner, script string, opts ...forkspawn.Option,
) *forkspawn.Child {
	t.Helper()
	c, err := s.Start(testkit.Context(t), sh(script), opts...)
	require.NoError(t, err)
	return c
}

// A server over stdin and stdout answers, ends with its stdin, and its end is an
// exact error.
func TestProgram_SpeaksOverItsStreams(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{StopGrace: bound})
	pipes := []forkspawn.Option{
		forkspawn.WithStdin(forkspawn.Pipe()), forkspawn.WithStdout(forkspawn.Pipe()),
	}
	c := start(t, s, "while read l; do echo got $l; done; echo bye; echo why >&2; exit 3", pipes...)
	assert.Equal(t, "sh", c.Name())
	_, err := io.WriteString(c.Stdin(), "one\n")
	require.NoError(t, err)
	out := bufio.NewReader(c.Stdout())
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "got one\n", line)

	require.NoError(t, c.Stdin().Close())
	rest, err := io.ReadAll(out)
	assert.Equal(t, "bye\n", string(rest))
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 3, exit.Status.Code())
	assert.Contains(t, err.Error(), `ended: exit status 3; stderr: "why"`)

	// Stop ends the stdin, and that is enough. Success is io.EOF.
	c = start(t, s, "cat; echo bye", pipes...)
	read := testkit.Background(t, func() string {
		b, err := io.ReadAll(c.Stdout())
		assert.NoError(t, err)
		return string(b)
	})
	require.NoError(t, c.RequestStop(testkit.Context(t), "enough"))
	assert.Equal(t, "bye\n", read())
	_, err = c.Stdin().Write([]byte("x"))
	require.ErrorAs(t, err, &exit)
	c = start(t, s, "cat", pipes...)
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, "ended as asked: exit status 0", result.String())
}

func TestProgram_ReadsAReader(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	text := strings.Repeat("a line\n", 100_000)
	c := start(t, s, "wc -c", forkspawn.WithStdin(forkspawn.From(strings.NewReader(text))),
		forkspawn.WithStdout(forkspawn.Pipe()))
	assert.Nil(t, c.Stdin())
	b, err := io.ReadAll(c.Stdout())
	require.NoError(t, err)
	assert.Equal(t, "700000", strings.TrimSpace(string(b)))

	// The reader need not end before the program.
	r, w := io.Pipe()
	c = start(t, s, "read l; exit 4", forkspawn.WithStdin(forkspawn.From(r)))
	w.Write([]byte("x\n"))
	status, err := c.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, 4, status.Code())
	w.Close()
}

// Each step of the stop ladder ends a program.
func TestProgram_StopUsesTheLadder(t *testing.T) {
	spawntest.NoLeaks(t)
	const moment = 50 * time.Millisecond
	for name, c := range map[string]struct {
		script      string
		stdin       forkspawn.Stream
		stop, term  time.Duration
		want        string
		wantSignals int
	}{
		"its stdin ends": {"cat", forkspawn.Pipe(), bound, bound,
			"ended as asked: exit status 0", 0},
		"it ignores the end of its stdin": {"echo up >&2; exec sleep 300", forkspawn.Pipe(),
			moment, bound, "ended on SIGTERM: signal: terminated", 1},
		"SIGTERM is the request": {"echo up >&2; exec sleep 300", forkspawn.Null(),
			bound, bound, "ended on SIGTERM: signal: terminated", 1},
		"it ignores SIGTERM": {"trap '' TERM; echo up >&2; sleep 300 & wait; wait",
			forkspawn.Null(), moment, moment, "killed: signal: killed", 2},
	} {
		t.Run(name, func(t *testing.T) {
			signals := 0
			s := newSpawner(t, forkspawn.Config{StopGrace: c.stop, TermGrace: c.term,
				Trace: &forkspawn.Trace{
					Signalled: func(_ forkspawn.ChildEvent, sig syscall.Signal, _ bool, _ error) {
						if sig != syscall.SIGCONT {
							signals++
						}
					}}})
			opts := []forkspawn.Option{forkspawn.WithStdin(c.stdin)}
			if c.script != "cat" {
				opts = append(opts, forkspawn.ReadyOnOutput("up"))
			}
			result, err := start(t, s, c.script, opts...).Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, c.want, result.String())
			assert.Equal(t, c.wantSignals, signals)
		})
	}
}

func TestProgram_IsReadyWhenAProbeHasFoundIt(t *testing.T) {
	spawntest.NoLeaks(t)
	ready := 0
	s := newSpawner(t, forkspawn.Config{StopGrace: time.Millisecond, Trace: &forkspawn.Trace{
		Ready: func(forkspawn.ChildEvent, forkspawn.BootTimes) { ready++ }}})

	// The text comes in two parts.
	c := start(t, s, "printf 'now rea' >&2; sleep 0.1; echo dy to serve >&2; exec sleep 300",
		forkspawn.ReadyOnOutput("ready to"))
	assert.Contains(t, c.StderrTail(), "ready to serve")
	assert.Positive(t, c.Boot().Ready)

	address := make(chan string, 1)
	time.AfterFunc(50*time.Millisecond, func() {
		ln, err := net.Listen("tcp", <-address)
		if assert.NoError(t, err) {
			t.Cleanup(func() { ln.Close() })
		}
	})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	at := free.Addr().String()
	free.Close()
	address <- at
	start(t, s, "exec sleep 300", forkspawn.ReadyOnPort("tcp", at))

	start(t, s, "read l; exec sleep 300", forkspawn.WithStdin(forkspawn.Pipe()),
		forkspawn.ReadyWhen(func(_ context.Context, c *forkspawn.Child) error {
			_, err := io.WriteString(c.Stdin(), "hello\n")
			return err
		}))
	assert.Equal(t, 3, ready)
}

// The error of a program that does not become ready is exact, and nothing is left.
func TestProgram_BootErrorsAreExact(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{BootTimeout: 300 * time.Millisecond})
	probe := errors.New("no schema")
	for name, c := range map[string]struct {
		command forkspawn.Command
		ready   forkspawn.Option
		cause   error
		text    string
	}{
		"it is missing": {forkspawn.Command{Path: "/no/such/program"}, nil, syscall.ENOENT,
			`"program": start: exec /no/such/program: no such file or directory`},
		"it ends before": {sh("echo no disk >&2; exit 5"), forkspawn.ReadyOnOutput("ready"),
			forkspawn.ErrDied, `exit status 5`},
		"it is late": {sh("echo hm >&2; exec sleep 300"), forkspawn.ReadyOnOutput("ready"),
			forkspawn.ErrBootTimeout, `no output with "ready": not ready in time`},
		"its port stays closed": {sh("exec sleep 300"), forkspawn.ReadyOnPort("tcp", "127.0.0.1:1"),
			syscall.ECONNREFUSED, `ready: not ready in time: dial`},
		"its probe fails": {sh("exec sleep 300"),
			forkspawn.ReadyWhen(func(context.Context, *forkspawn.Child) error { return probe }),
			probe, `ready: no schema; after`},
	} {
		t.Run(name, func(t *testing.T) {
			opts := []forkspawn.Option{forkspawn.WithStdout(forkspawn.Pipe()),
				forkspawn.WithStdin(forkspawn.Pipe())}
			if c.ready != nil {
				opts = append(opts, c.ready)
			}
			_, err := s.Start(testkit.Context(t), c.command, opts...)
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			require.ErrorIs(t, err, c.cause)
			assert.Contains(t, err.Error(), c.text)
			assert.NotContains(t, err.Error(), "Init or Join")
			if boot.PID != 0 {
				assert.False(t, alive(boot.PID), "the process is gone and reaped")
			}
		})
	}
}

func TestProgram_HasNoChannel(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c := start(t, s, "exec sleep 300")
	ctx := testkit.Context(t)
	require.ErrorIs(t, c.Send(ctx, 1), forkspawn.ErrNoChannel)
	require.ErrorIs(t, c.Recv(ctx, nil), forkspawn.ErrNoChannel)
	require.ErrorIs(t, c.SendBytes(ctx, nil), forkspawn.ErrNoChannel)
	require.ErrorIs(t, testkit.Second(c.RecvBytes(ctx, nil)), forkspawn.ErrNoChannel)
	assert.Nil(t, c.Channel())
	assert.Nil(t, c.Stdin())
	assert.Nil(t, c.Stdout())
	_, err := c.Kill()
	require.NoError(t, err)
	assert.ErrorContains(t, c.Err(), "signal: killed")
}

// A program gets neither a ticket nor a descriptor, with every start method.
func TestProgram_InheritsStdioOnly(t *testing.T) {
	for _, cfg := range []forkspawn.Config{{}, {Spares: 1}, {Method: forkspawn.MethodInProcess}} {
		s := newSpawner(t, cfg)
		c := start(t, s, "env | grep SPAWNWIRE_TICKET; ls /dev/fd/ | tr '\n' ' '",
			forkspawn.WithStdin(forkspawn.Pipe()), forkspawn.WithStdout(forkspawn.Pipe()))
		b, err := io.ReadAll(c.Stdout())
		require.NoError(t, err)
		assert.Equal(t, "0 1 2 3 ", string(b), "ls itself opens the fourth")
	}
}

// A copy of this program without a ticket could start itself without end.
func TestProgram_NeedsItsPath(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	_, err := s.Start(testkit.Context(t), forkspawn.Command{Args: []string{"-test.run=^$"}})
	var bad *forkspawn.ConfigError
	require.ErrorAs(t, err, &bad)
	assert.Equal(t, "Command.Path", bad.Field)
}

// A program lives and dies with its group, and is restarted.
func TestProgram_InAGroupIsRestarted(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	g, err := s.NewGroup(testkit.Context(t), forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure, MinPause: time.Millisecond})
	require.NoError(t, err)
	lives := make(chan *forkspawn.Child)
	failing := forkspawn.WithProgram(sh("echo up >&2; read l; exit $l"))
	require.NoError(t, g.Go(spawnspec.Spec{Name: "db"},
		func(ctx context.Context, c *forkspawn.Child) error {
			lives <- c
			_, err := c.Wait(ctx)
			return err
		}, failing, forkspawn.WithStdin(forkspawn.Pipe()), forkspawn.ReadyOnOutput("up")))
	pids := make(map[int]bool)
	for range 2 {
		c := testkit.Receive(t, lives)
		pids[c.PID()] = true
		io.WriteString(c.Stdin(), "7\n")
	}
	c := testkit.Receive(t, lives)
	pids[c.PID()] = true
	io.WriteString(c.Stdin(), "0\n")
	require.NoError(t, g.Wait())
	assert.Len(t, pids, 3)

	// The failure of a program ends the others.
	g, err = s.NewGroup(testkit.Context(t), forkspawn.GroupConfig{})
	require.NoError(t, err)
	other, err := g.Spawn(testkit.Context(t), spawnspec.Spec{},
		forkspawn.WithProgram(sh("exec sleep 300")))
	require.NoError(t, err)
	_, err = g.Spawn(testkit.Context(t), spawnspec.Spec{}, forkspawn.WithProgram(sh("exit 6")))
	require.NoError(t, err)
	assert.ErrorContains(t, g.Wait(), `child "sh"`)
	status, err := other.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, syscall.SIGTERM, status.Signal())
}

// The host is killed. Nothing of the shell, the runtime and the server below it is
// left.
func TestProgram_NothingOutlivesTheHost(t *testing.T) {
	testkit.NeedLinux(t)
	rounds := 3
	if testkit.IsLong() && os.Getenv(testkit.MethodEnv) == "" { // a program is never forked
		rounds = 200
	}
	var most time.Duration
	for range rounds {
		host := testkit.RoleCommand(t, "runs-program")
		host.Env = append(host.Env, "XDG_RUNTIME_DIR=", "TMPDIR="+testkit.ShortDir(t))
		host.Stderr = &bytes.Buffer{}
		out, err := host.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, host.Start())
		var group int
		require.NoError(t, json.NewDecoder(out).Decode(&group), host.Stderr)
		testkit.Eventually(t, "the whole tree runs", func() bool {
			return len(members(group)) >= 4
		})
		began := time.Now()
		require.NoError(t, host.Process.Kill())
		testkit.Eventually(t, "the whole tree has ended", func() bool {
			return len(members(group)) == 0
		})
		most = max(most, time.Since(began))
		host.Wait()
	}
	t.Logf("%d trees of 4 processes ended at most %v after the kill", rounds, most)
}

// members returns the running processes of a group.
func members(group int) []string {
	out, _ := exec.Command("ps", "-eo", "pgid=,stat=,args=").Output()
	var list []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == itoa(group) && !strings.HasPrefix(f[1], "Z") {
			list = append(list, line)
		}
	}
	return list
}

func TestProgram_StreamsInTheWrongPlaceAreRefused(t *testing.T) {
	for field, cfg := range map[string]forkspawn.Config{
		"Stdin":  {Stdin: forkspawn.Capture(nil)},
		"Stdout": {Stdout: forkspawn.From(strings.NewReader(""))},
		"Stderr": {Stderr: forkspawn.Pipe()},
	} {
		_, err := forkspawn.New(cfg)
		var bad *forkspawn.ConfigError
		require.ErrorAs(t, err, &bad)
		assert.Equal(t, field, bad.Field)
	}
	s := newSpawner(t, forkspawn.Config{})
	_, err := s.Start(testkit.Context(t), sh("sleep 300"), forkspawn.ReadyOnOutput("x"),
		forkspawn.WithStderr(forkspawn.Null()), forkspawn.WithStdout(forkspawn.Null()))
	assert.ErrorContains(t, err, "ReadyOnOutput needs a captured stdout or stderr")
}
