//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/nettest"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestBoot_FailuresAreExact(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	require.NoError(t, os.WriteFile(text, []byte("#!/no/such/interpreter\n"), 0o755))
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, []byte("x"), 0o644))
	garbage := filepath.Join(dir, "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("\x7fnot an ELF"), 0o755))
	other := testkit.BuildSource(t, "package main\nfunc main() {}\n", "GOOS=linux",
		"GOARCH="+otherArch(), "CGO_ENABLED=0")

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
			{name: "exits 3 before it connects", cmd: roles.Command("exits-3"),
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.ExitedStatus(3),
				text: []string{"exit status 3", "cannot open the moon", "connect"}},
			{name: "killed before it connects", cmd: roles.Command("kills-itself"),
				phase: "connect", is: []error{forkspawn.ErrDied},
				status: forkspawn.KilledStatus(syscall.SIGKILL, false),
				text:   []string{"signal: killed"}},
			{name: "exits 0 without a word", cmd: forkspawn.Command{Path: "true"},
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.ExitedStatus(0),
				text: []string{"exit status 0"}},
			{name: "missing", cmd: forkspawn.Command{Path: "/no/such/program"},
				phase: "start", is: []error{fs.ErrNotExist},
				text: []string{"/no/such/program", "no such file"}},
			{name: "missing in PATH", cmd: forkspawn.Command{Path: "no-such-program"},
				phase: "start", text: []string{"no-such-program", "executable file not found"}},
			{name: "missing interpreter", cmd: forkspawn.Command{Path: text},
				phase: "start", is: []error{fs.ErrNotExist}},
			{name: "not executable", cmd: forkspawn.Command{Path: plain},
				phase: "start", is: []error{fs.ErrPermission},
				text: []string{plain, "permission denied"}},
			{name: "a directory", cmd: forkspawn.Command{Path: dir},
				phase: "start", is: []error{fs.ErrPermission}},
			{name: "no program", cmd: forkspawn.Command{Path: garbage},
				phase: "start", is: []error{syscall.ENOEXEC}, text: []string{"exec format error"}},
			{name: "wrong architecture", cmd: forkspawn.Command{Path: other},
				phase: "start", is: []error{syscall.ENOEXEC}, text: []string{"exec format error"}},
			{name: "missing directory", spec: spawnspec.Spec{Dir: "/no/such/dir", Entry: "echo"},
				phase: "start", is: []error{fs.ErrNotExist}, text: []string{"chdir /no/such/dir"}},
			{name: "unknown entry", spec: spawnspec.Spec{Entry: "nope"},
				phase: "spec", is: []error{handshake.ErrUnknownEntry},
				as: new(*handshake.FailedError), status: forkspawn.ExitedStatus(1),
				text: []string{`unknown entry "nope"`, "echo"}},
			{name: "no entry for this program", spec: spawnspec.Spec{Name: "x"},
				phase: "start", as: new(*spawnspec.FieldError), text: []string{`"entry"`}},
			{name: "the child's own words", cmd: roles.Command("fails-in-prepare"),
				phase: "ready", as: new(*handshake.FailedError), status: forkspawn.ExitedStatus(1),
				text: []string{"port 80 is taken"}},
			{name: "version mismatch", cmd: roles.Command("speaks-version-7"),
				phase: "auth", as: new(*handshake.VersionError), status: forkspawn.ExitedStatus(1),
				text: []string{"1 to 1", "7 to 9"}},
			{name: "wrong secret", cmd: roles.Command("wrong-secret"),
				phase: "auth", is: []error{handshake.ErrBadMAC}, status: forkspawn.ExitedStatus(1),
				text: []string{"secret"}},
			{name: "dies with its spec in hand", cmd: roles.Command("dies-after-spec"),
				phase: "spec", is: []error{forkspawn.ErrDied}, status: forkspawn.ExitedStatus(7)},
			{name: "forgot Init", cmd: roles.Command("forgets-init"),
				phase: "connect", is: []error{forkspawn.ErrDied},
				status: forkspawn.ExitedStatus(42)},
			{name: "leaves a grandchild with its output", cmd: roles.Command("leaves-grandchild"),
				phase: "connect", is: []error{forkspawn.ErrDied}, status: forkspawn.ExitedStatus(3),
				text: []string{"leaving"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				s := newSpawner(t, forkspawn.Config{Listen: listen})
				if c.spec.Name == "" {
					c.spec.Name = "case"
				}
				before := spawntest.TakeSnapshot(t)
				boot := spawnError(t, testkit.Context(t), s, c.cmd, c.spec)
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
				for _, d := range boot.Phases {
					assert.GreaterOrEqual(t, d, time.Duration(0), "%v", boot.Phases)
					sum += d
				}
				assert.Equal(t, boot.Elapsed, sum, "the phases share the time: %v", boot.Phases)
				assert.Empty(t, before.Leaks())
			})
		}

		t.Run("silent for ever, without connecting", func(t *testing.T) {
			boot := timesOut(t, handshake.PhaseConnect, forkspawn.Config{Listen: listen},
				roles.Command("never-connects"), spawnspec.Spec{Name: "mute"})
			assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
			assert.ErrorIs(t, boot, context.DeadlineExceeded)
			assert.False(t, boot.Status.Known(), "it did not end by itself")
		})
		t.Run("silent for ever, connected", func(t *testing.T) {
			phase := handshake.PhaseConnect
			if onUDS { // there the kernel reports who has connected
				phase = handshake.PhaseHello
			}
			boot := timesOut(t, phase, forkspawn.Config{Listen: listen},
				roles.Command("connects-silently"), spawnspec.Spec{Name: "silent"})
			assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
		})
		t.Run("the caller cancels", func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			why := errors.New("changed my mind")
			ctx, cancel := context.WithCancelCause(context.Background())
			time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
			boot := spawnError(t, ctx, s, roles.Command("never-connects"),
				spawnspec.Spec{Name: "mute"})
			assert.ErrorIs(t, boot, context.Canceled)
			assert.ErrorIs(t, boot, why)
		})
		t.Run("the spawner closes", func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			time.AfterFunc(50*time.Millisecond, func() { s.Close() })
			boot := spawnError(t, context.Background(), s, roles.Command("never-connects"),
				spawnspec.Spec{Name: "mute"})
			assert.ErrorIs(t, boot, forkspawn.ErrSpawnerClosed)
			boot = spawnError(t, context.Background(), s, roles.Command("never-connects"),
				spawnspec.Spec{Name: "late"})
			assert.ErrorIs(t, boot, forkspawn.ErrSpawnerClosed)
			assert.Zero(t, boot.PID)
		})
	})
}

// timesOut spawns a child of a role without ready. It doubles BootTimeout until
// this machine brings the child into the phase in time.
func timesOut(t *testing.T, phase handshake.Phase, cfg forkspawn.Config, cmd forkspawn.Command,
	spec spawnspec.Spec) *forkspawn.BootError {
	t.Helper()
	for cfg.BootTimeout = 250 * time.Millisecond; ; cfg.BootTimeout *= 2 {
		boot := spawnError(t, testkit.Context(t), newSpawner(t, cfg), cmd, spec)
		if boot.Phase == phase {
			return boot
		}
		require.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
		require.Less(t, cfg.BootTimeout, bound, "never in the phase %s", phase)
	}
}

func TestBoot_GarbledHelloIsNamed(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{}) // on a Unix socket the kernel identifies the sender
	boot := spawnError(t, testkit.Context(t), s, roles.Command("sends-garbage"),
		spawnspec.Spec{Name: "garbled"})
	assert.Equal(t, handshake.PhaseHello, boot.Phase)
	assert.ErrorIs(t, boot, transport.ErrProtocol)
}

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func TestBoot_RaceServesAnotherRuntime(t *testing.T) {
	// A program that starts processes in its own way needs only the listener and AwaitReady.
	_, err := forkspawn.Join(context.Background(), forkspawn.JoinConfig{})
	assert.ErrorIs(t, err, forkspawn.ErrNotSpawned)

	ln, err := handshake.Listen(nettest.Listen(t, transport.SchemeUDS), handshake.ListenerConfig{})
	require.NoError(t, err)
	defer ln.Close()
	x, err := ln.Expect(handshake.Expectation{})
	require.NoError(t, err)
	defer x.Cancel()
	gone := make(chan struct{})
	time.AfterFunc(10*time.Millisecond, func() { close(gone) })
	_, err = forkspawn.AwaitReady(testkit.Context(t), x, gone)
	assert.ErrorIs(t, err, forkspawn.ErrDied)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = forkspawn.AwaitReady(ctx, x, make(chan struct{}))
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// A child dies when it has sent ready. Spawn returns a BootError with the exit
// status, or a child, and then the next Recv returns the status.
func TestBoot_DeathAfterReadyHasTwoOutcomes(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		t.Parallel()
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		for range 20 {
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "brief"},
				forkspawn.WithCommand(roles.Command("dies-after-ready")))
			if err != nil {
				var boot *forkspawn.BootError
				require.ErrorAs(t, err, &boot)
				assert.Equal(t, forkspawn.ExitedStatus(9), boot.Status)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				continue
			}
			var v any
			err = c.Recv(testkit.Context(t), &v)
			var exit *forkspawn.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, forkspawn.ExitedStatus(9), exit.Status)
			c.Stop(testkit.Context(t))
		}
	})
}
