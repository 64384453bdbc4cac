//go:build unix

package forkspawn_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
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

func TestSpawnedChildAnswersMessagesAndStops(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c := spawn(t, s, spawnspec.Spec{Name: "echo-1", Entry: "echo"})
		ctx := testContext(t)
		require.NoError(t, c.Send(ctx, "hello"))
		var got string
		require.NoError(t, c.Recv(ctx, &got))
		assert.Equal(t, "hello", got)
		raw := bytes.Repeat([]byte("raw "), 50_000)
		require.NoError(t, c.SendBytes(ctx, raw))
		buf := make([]byte, len(raw))
		n, err := c.RecvBytes(ctx, buf)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(raw, buf[:n]))

		boot := c.Boot()
		assert.Positive(t, boot.Total)
		if runtime.GOOS == "linux" {
			assert.GreaterOrEqual(t, boot.Runtime, time.Duration(0))
			assert.Positive(t, boot.Connect, "the child told its moments")
		}
		result, err := c.Stop(ctx)
		require.NoError(t, err)
		assert.Equal(t, forkspawn.EndedAsked, result.By)
		assert.True(t, result.Status.Success(), result)
		again, err := c.Stop(ctx)
		require.NoError(t, err)
		assert.Equal(t, result, again)
		assert.False(t, alive(c.PID()))
		status, err := c.Wait(ctx)
		require.NoError(t, err)
		assert.Equal(t, result.Status, status, "the status is kept")
		assert.ErrorIs(t, c.Signal(syscall.SIGTERM), os.ErrProcessDone)
	})
}

func TestChildReceivesItsOrders(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	dir := t.TempDir()
	deadline := time.Now().Add(time.Hour)
	c, err := s.SpawnCommand(testContext(t), forkspawn.Command{
		Args: []string{"-one", "two"}, Env: append(os.Environ(), "GREETING=overruled", "GREETING=good day"),
	}, spawnspec.Spec{
		Entry: "orders", Dir: dir, Deadline: deadline,
		Vars: map[string]any{"depth": uint64(3)}, Modules: []string{"a", "b"},
	})
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, c.Recv(testContext(t), &got))
	assert.Equal(t, "orders", got["name"], "named after its entry")
	assert.Equal(t, dir, got["dir"])
	assert.EqualValues(t, 1, got["depth"])
	assert.Equal(t, "exec", got["method"])
	assert.EqualValues(t, os.Getpid(), got["parent"])
	assert.EqualValues(t, os.Getpid(), got["ppid"])
	assert.Equal(t, []any{"a", "b"}, got["modules"])
	assert.Equal(t, map[any]any{"depth": uint64(3)}, got["vars"])
	assert.WithinDuration(t, deadline, got["deadline"].(time.Time), time.Microsecond)
	assert.Equal(t, false, got["ticket"], "its own children must not see the ticket")
	assert.Equal(t, "-one two", got["args"])
	assert.Equal(t, "good day", got["env"])
	if runtime.GOOS == "linux" {
		assert.Equal(t, filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))], got["comm"])
	}
}

func TestAnotherProgramJoins(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c, err := s.SpawnCommand(testContext(t), role("join"), spawnspec.Spec{Name: "another"})
		require.NoError(t, err)
		require.NoError(t, c.Send(testContext(t), 42))
		var got int
		require.NoError(t, c.Recv(testContext(t), &got))
		assert.Equal(t, 42, got)
		result, err := c.Stop(testContext(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.EndedAsked, result.By)
	})
}

func TestBootFailuresAreExact(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(text, []byte("#!/no/such/interpreter\n"), 0o755))
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, []byte("x"), 0o644))
	garbage := filepath.Join(dir, "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("\x7fnot an ELF"), 0o755))
	other := build(t, t.TempDir(), "package main\nfunc main() {}\n", "GOOS=linux", "GOARCH="+otherArch(), "CGO_ENABLED=0")

	networks(t, func(t *testing.T, listen transport.Addr) {
		onUDS := listen.IsZero()
		for _, c := range []struct {
			name   string
			cmd    forkspawn.Command
			spec   spawnspec.Spec
			phase  handshake.Phase
			is     []error
			as     any
			status forkspawn.ExitStatus
			text   []string
		}{
			{name: "exits 3 before it connects", cmd: role("exit3"),
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.Exited(3),
				text: []string{"exit status 3", "cannot open the moon", "connect"}},
			{name: "killed before it connects", cmd: role("suicide"),
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.Killed(syscall.SIGKILL, false),
				text: []string{"signal: killed"}},
			{name: "exits 0 without a word", cmd: forkspawn.Command{Path: "true"},
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.Exited(0), text: []string{"exit status 0"}},
			{name: "missing", cmd: forkspawn.Command{Path: "/no/such/program"},
				phase: "start", is: []error{fs.ErrNotExist}, text: []string{"/no/such/program", "no such file"}},
			{name: "missing in PATH", cmd: forkspawn.Command{Path: "no-such-program"},
				phase: "start", text: []string{"no-such-program", "executable file not found"}},
			{name: "missing interpreter", cmd: forkspawn.Command{Path: text},
				phase: "start", is: []error{fs.ErrNotExist}},
			{name: "not executable", cmd: forkspawn.Command{Path: plain},
				phase: "start", is: []error{fs.ErrPermission}, text: []string{plain, "permission denied"}},
			{name: "a directory", cmd: forkspawn.Command{Path: dir},
				phase: "start", is: []error{fs.ErrPermission}},
			{name: "no program", cmd: forkspawn.Command{Path: garbage},
				phase: "start", is: []error{syscall.ENOEXEC}, text: []string{"exec format error"}},
			{name: "wrong architecture", cmd: forkspawn.Command{Path: other},
				phase: "start", is: []error{syscall.ENOEXEC}, text: []string{"exec format error"}},
			{name: "missing directory", spec: spawnspec.Spec{Dir: "/no/such/dir", Entry: "echo"},
				phase: "start", is: []error{fs.ErrNotExist}, text: []string{"chdir /no/such/dir"}},
			{name: "unknown entry", spec: spawnspec.Spec{Entry: "nope"},
				phase: "spec", is: []error{handshake.ErrUnknownEntry}, as: new(*handshake.FailedError), status: forkspawn.Exited(1),
				text: []string{`unknown entry "nope"`, "echo"}},
			{name: "no entry for this program", spec: spawnspec.Spec{Name: "x"},
				phase: "start", as: new(*spawnspec.FieldError), text: []string{`"entry"`}},
			{name: "the child's own words", cmd: role("prepare"),
				phase: "ready", as: new(*handshake.FailedError), status: forkspawn.Exited(1), text: []string{"port 80 is taken"}},
			{name: "version mismatch", cmd: role("future"),
				phase: "auth", as: new(*handshake.VersionError), status: forkspawn.Exited(1), text: []string{"1 to 1", "7 to 9"}},
			{name: "wrong secret", cmd: role("impostor"),
				phase: "auth", is: []error{handshake.ErrBadMAC}, status: forkspawn.Exited(1), text: []string{"secret"}},
			{name: "dies with its spec in hand", cmd: role("die-welcomed"),
				phase: "spec", is: []error{forkspawn.ErrDied}, status: forkspawn.Exited(7)},
			{name: "forgot Init", cmd: role("no-init"),
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.Exited(42)},
			{name: "leaves a grandchild with its output", cmd: role("grandchild"),
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.Exited(3), text: []string{"leaving"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				s := newSpawner(t, forkspawn.Config{Listen: listen})
				if c.spec.Name == "" {
					c.spec.Name = "case"
				}
				before := spawntest.TakeSnapshot(t)
				boot := spawnError(t, testContext(t), s, c.cmd, c.spec)
				assert.Equal(t, c.phase, boot.Phase)
				assert.Equal(t, c.status, boot.Status)
				for _, target := range c.is {
					assert.ErrorIs(t, boot, target)
				}
				if c.as != nil {
					assert.True(t, errors.As(boot, c.as), "%T in %v", c.as, boot)
				}
				for _, text := range c.text {
					assert.Contains(t, boot.Error(), text)
				}
				sum := time.Duration(0)
				for _, p := range boot.Phases {
					assert.GreaterOrEqual(t, p.Duration, time.Duration(0), "%v", boot.Phases)
					sum += p.Duration
				}
				assert.Equal(t, boot.Elapsed, sum, "the phases share the time: %v", boot.Phases)
				assert.Empty(t, before.Leaks())
			})
		}

		t.Run("silent for ever, without connecting", func(t *testing.T) {
			boot := timesOut(t, handshake.PhaseConnect, forkspawn.Config{Listen: listen}, role("mute"), spawnspec.Spec{Name: "mute"})
			assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
			assert.ErrorIs(t, boot, context.DeadlineExceeded)
			assert.False(t, boot.Status.Known(), "it did not end by itself")
		})
		t.Run("silent for ever, connected", func(t *testing.T) {
			phase := handshake.PhaseConnect
			if onUDS { // where the kernel tells whose connection it is
				phase = handshake.PhaseHello
			}
			boot := timesOut(t, phase, forkspawn.Config{Listen: listen}, role("silent"), spawnspec.Spec{Name: "silent"})
			assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
		})
		t.Run("the caller gives up", func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			why := errors.New("changed my mind")
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
			boot := spawnError(t, ctx, s, role("mute"), spawnspec.Spec{Name: "mute"})
			assert.ErrorIs(t, boot, context.Canceled)
			assert.ErrorIs(t, boot, why)
		})
		t.Run("the spawner closes", func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			time.AfterFunc(50*time.Millisecond, func() { s.Close() })
			boot := spawnError(t, context.Background(), s, role("mute"), spawnspec.Spec{Name: "mute"})
			assert.ErrorIs(t, boot, forkspawn.ErrClosed)
			boot = spawnError(t, context.Background(), s, role("mute"), spawnspec.Spec{Name: "late"})
			assert.ErrorIs(t, boot, forkspawn.ErrClosed)
			assert.Zero(t, boot.PID)
		})
	})
}

// timesOut spawns what never becomes ready, and gives it as long as this machine needs to bring it into a phase.
func timesOut(t *testing.T, phase handshake.Phase, cfg forkspawn.Config, cmd forkspawn.Command, spec spawnspec.Spec) *forkspawn.BootError {
	t.Helper()
	for cfg.BootTimeout = 250 * time.Millisecond; ; cfg.BootTimeout *= 2 {
		boot := spawnError(t, testContext(t), newSpawner(t, cfg), cmd, spec)
		if boot.Phase == phase {
			return boot
		}
		require.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
		require.Less(t, cfg.BootTimeout, bound, "never in the phase %s", phase)
	}
}

func TestGarbledHelloOfTheChildItselfIsNamed(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{}) // a Unix socket, where the kernel tells whose hello it is
	boot := spawnError(t, testContext(t), s, role("garbled"), spawnspec.Spec{Name: "garbled"})
	assert.Equal(t, handshake.PhaseHello, boot.Phase)
	assert.ErrorIs(t, boot, transport.ErrProtocol)
}

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

// A death is told within 50 ms, of which the log shows the figure: the best of several runs is the
// library's own part. The bound is for hangs.
func TestDeathIsToldAtOnce(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		best := time.Hour
		for range 20 {
			died := filepath.Join(t.TempDir(), "died")
			// The shell's last act before its exit is to note the time, as the file's.
			boot := spawnError(t, testContext(t), s, sh("echo last words >&2; : >'"+died+"'; exit 3"), spawnspec.Spec{Name: "sh"})
			now := time.Now()
			st, err := os.Stat(died)
			require.NoError(t, err)
			best = min(best, now.Sub(st.ModTime()))
			assert.Equal(t, forkspawn.Exited(3), boot.Status)
			assert.Contains(t, boot.Error(), "last words")
		}
		assert.Less(t, best, bound)
		t.Logf("news of a death after %v", best)
	})
}

func TestManyChildrenOfOneNameAtOnce(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		ctx := testContext(t)
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				c, err := s.Spawn(ctx, spawnspec.Spec{Name: "same", Entry: "echo"})
				if !assert.NoError(t, err) {
					return
				}
				assert.NoError(t, c.Send(ctx, i))
				var got int
				assert.NoError(t, c.Recv(ctx, &got))
				assert.Equal(t, i, got)
			})
		}
		wg.Wait()
		assert.Len(t, s.Children(), 32)
	})
}

func TestReplacingTheProgramsFileDoesNoHarm(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc/self/exe here")
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	data, err := os.ReadFile(exe)
	require.NoError(t, err)
	copyPath := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.WriteFile(copyPath, data, 0o755))
	// A copy of this program runs the entry that spawns a child of its own; before that its file is
	// replaced.
	s := newSpawner(t, forkspawn.Config{})
	c, err := s.SpawnCommand(testContext(t), forkspawn.Command{Path: copyPath}, spawnspec.Spec{Name: "copy", Entry: "fds", Args: true})
	require.NoError(t, err)
	require.NoError(t, os.Remove(copyPath))
	require.NoError(t, os.WriteFile(copyPath, []byte("#!/bin/false\n"), 0o755))
	var report map[string]string
	require.NoError(t, c.Recv(testContext(t), &report))
	require.NoError(t, c.Recv(testContext(t), &report), "the grandchild started")
}

func TestFreshlyWrittenProgramStarts(t *testing.T) {
	// ETXTBSY (golang/go#22315): many threads write a program and start it while others fork.
	s := newSpawner(t, forkspawn.Config{})
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				path := filepath.Join(dir, "p"+string(rune('a'+i))+string(rune('a'+j)))
				assert.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nexit 3\n"), 0o755))
				_, err := s.SpawnCommand(testContext(t), forkspawn.Command{Path: path}, spawnspec.Spec{Name: "fresh"})
				assert.ErrorIs(t, err, forkspawn.ErrDied)
			}
		})
	}
	wg.Wait()
}

func TestReservedAndUnknownMethodsGiveDifferentErrors(t *testing.T) {
	for _, c := range []struct {
		method string
		is     error
		text   string
	}{
		{"livefork", forkspawn.ErrMethodReserved, "golang/go#77032"},
		{"teleport", forkspawn.ErrMethodUnknown, `use "exec"`},
	} {
		_, err := forkspawn.New(forkspawn.Config{Method: c.method})
		var m *forkspawn.MethodError
		require.ErrorAs(t, err, &m, c.method)
		assert.ErrorIs(t, err, c.is)
		assert.Contains(t, err.Error(), c.text)
	}
}

func TestConfigNamesItsBadField(t *testing.T) {
	for field, cfg := range map[string]forkspawn.Config{
		"BootTimeout": {BootTimeout: -1},
		"StopGrace":   {StopGrace: -1},
		"Limit":       {Limit: -1},
		"Stdin":       {Stdin: forkspawn.Capture(nil)},
	} {
		_, err := forkspawn.New(cfg)
		var c *forkspawn.ConfigError
		require.ErrorAs(t, err, &c)
		assert.Equal(t, field, c.Field)
	}
	_, err := forkspawn.New(forkspawn.Config{Listen: transport.Addr{Scheme: "pigeon", Target: "x"}})
	assert.ErrorContains(t, err, "unknown scheme")
}

func TestSecretIsNowhereToBeSeen(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	cmdline, err := os.ReadFile("/proc/" + itoa(c.PID()) + "/cmdline")
	require.NoError(t, err)
	assert.NotContains(t, string(cmdline), "SPAWNWIRE")
	boot := spawnError(t, testContext(t), s, sh(`echo "$SPAWNWIRE_TICKET" | cut -d" " -f1-2 >&2; exit 1`), spawnspec.Spec{Name: "teller"})
	assert.True(t, strings.HasPrefix(boot.Stderr, "1 "), "the ticket's form: version, id")
	assert.Contains(t, boot.Stderr, boot.ID)
}
