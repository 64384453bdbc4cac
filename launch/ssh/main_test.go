//go:build linux

package ssh_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/internal/testkit/sshd"
	"github.com/spawnwire/spawnwire/launch/ssh"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{"spawns-afar": spawnsAfar})
	roles.Register()
	forkspawn.Register("reports-pid", reportsPID)
	forkspawn.Register("serves", serves)
	launching.Register()
	forkspawn.Register("spawns-on", spawnsOn)
	spawntest.Main(m)
}

// reportsPID sends its pid and waits.
func reportsPID(ctx context.Context, p *forkspawn.Parent) error {
	if err := p.Send(ctx, os.Getpid()); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

var errNoMoon = errors.New("no moon")

// upper is a call. It fails for "moon".
var upper = call.NewUnary[string, string]("upper")

func serves(ctx context.Context, p *forkspawn.Parent) error {
	mux := call.NewMux()
	upper.Handle(mux, func(_ context.Context, s string) (string, error) {
		if s == "moon" {
			return "", errNoMoon
		}
		return strings.ToUpper(s), nil
	})
	return call.Serve(ctx, p, mux)
}

// place is how a process of a test reaches a host.
type place struct {
	Command  []string
	CacheDir string
	Silent   time.Duration
}

func placeOf(h *ssh.Host) place { return place{h.Command, h.CacheDir, h.DeadAfter} }

func (p place) host() *ssh.Host {
	return &ssh.Host{Name: sshd.Name, Command: p.Command, CacheDir: p.CacheDir,
		DeadAfter: p.Silent}
}

// spawnsOn spawns a child on the host of its argument, and sends that child's pid.
func spawnsOn(ctx context.Context, p *forkspawn.Parent) error {
	var to place
	if err := p.Spec().DecodeArgs(&to); err != nil {
		return err
	}
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	pid, err := spawnAt(ctx, s, to)
	if err != nil {
		return err
	}
	if err := p.Send(ctx, pid); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// spawnAt starts a child of the entry reports-pid, and returns the pid.
func spawnAt(ctx context.Context, s *forkspawn.Spawner, to place) (pid int, err error) {
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-pid"}, on(to.host()))
	if err != nil {
		return 0, err
	}
	return pid, c.Recv(ctx, &pid)
}

// spawnsAfar is a program. It spawns a child on the host in its environment, prints the
// child's pid, and waits.
func spawnsAfar(ctx context.Context) error {
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	pid, err := spawnAt(ctx, s, place{Command: strings.Fields(os.Getenv("TEST_SSH")),
		CacheDir: os.Getenv("TEST_CACHE")})
	if err != nil {
		return err
	}
	fmt.Println(pid)
	<-ctx.Done()
	return nil
}

// newHost returns a server, and a Host for it with a cache of its own. A supervisor there
// has a temporary directory of its own, because a killed one leaves its socket.
func newHost(t testing.TB, lines ...string) (*sshd.Server, *ssh.Host) {
	t.Helper()
	server := sshd.New(t, append(lines, "SetEnv TMPDIR="+testkit.ShortDir(t))...)
	return server, &ssh.Host{Name: sshd.Name, Command: server.Command,
		CacheDir: t.TempDir() + "/cache"}
}

func on(h *ssh.Host) forkspawn.Option {
	return forkspawn.WithCommand(forkspawn.Command{Launcher: h})
}

func spawn(t testing.TB, s *forkspawn.Spawner, h *ssh.Host, spec spawnspec.Spec,
	opts ...forkspawn.Option) *forkspawn.Child {
	t.Helper()
	c, err := s.Spawn(testkit.Context(t), spec, append(opts, on(h))...)
	require.NoError(t, err)
	return c
}

// spawnPID spawns a child that reports its pid.
func spawnPID(t testing.TB, s *forkspawn.Spawner, h *ssh.Host) (c *forkspawn.Child, pid int) {
	t.Helper()
	c = spawn(t, s, h, spawnspec.Spec{Entry: "reports-pid"})
	require.NoError(t, c.Recv(testkit.Context(t), &pid))
	return c, pid
}
