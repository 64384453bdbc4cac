//go:build linux

package oci_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/containers"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/launch/oci"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{"spawns-inside": spawnsInside})
	roles.Register()
	forkspawn.Register("reports-state", reportsState)
	forkspawn.Register("speaks", speaks)
	forkspawn.Register("leaves-zombies", leavesZombies)
	forkspawn.Register("fills-memory", fillsMemory)
	spawntest.Main(m)
}

// state is what a child finds in its container.
type state struct {
	PID, PPID int
	Env       []string
	Program   string
}

// reportsState sends its state and waits.
func reportsState(ctx context.Context, p *forkspawn.Parent) error {
	program, _ := os.Executable()
	s := state{os.Getpid(), os.Getppid(), os.Environ(), program}
	if err := p.Send(ctx, s); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// speaks writes to stdout and stderr, and fails.
func speaks(context.Context, *forkspawn.Parent) error {
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	return errors.New("that is all")
}

// leavesZombies starts a process whose parent ends first, waits until it has ended
// too, and sends whether process 1 has reaped it.
func leavesZombies(ctx context.Context, p *forkspawn.Parent) error {
	out, err := exec.Command("/bin/sh", "-c", "sleep 0.2 >/dev/null & echo $!").Output()
	if err != nil {
		return err
	}
	stat := "/proc/" + strings.TrimSpace(string(out)) + "/stat"
	for ctx.Err() == nil {
		if _, err := os.Stat(stat); err != nil {
			return p.Send(ctx, "reaped")
		}
	}
	return ctx.Err()
}

// fillsMemory uses memory without an end.
func fillsMemory(ctx context.Context, _ *forkspawn.Parent) error {
	var all [][]byte
	for ctx.Err() == nil {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = 1
		}
		all = append(all, block)
	}
	return fmt.Errorf("%d blocks", len(all))
}

// launcherOf returns a launcher for an engine.
func launcherOf(e *containers.Engine) *oci.Launcher {
	return &oci.Launcher{Engine: e.Name, Command: e.Command, Image: e.Image,
		Bundle: e.Bundle, Options: e.Options}
}

// placeEnv is the environment variable with the engine for spawns-inside: the fields of
// a launcher, each part on a line.
const placeEnv = "TEST_ENGINE"

func encode(o *oci.Launcher) string {
	return placeEnv + "=" + strings.Join([]string{o.Engine, strings.Join(o.Command, "\x01"),
		o.Image, o.Bundle, strings.Join(o.Options, "\x01")}, "\n")
}

func decode(text string) *oci.Launcher {
	f := strings.Split(text, "\n")
	o := &oci.Launcher{Engine: f[0], Command: strings.Split(f[1], "\x01"), Image: f[2],
		Bundle: f[3]}
	if f[4] != "" {
		o.Options = strings.Split(f[4], "\x01")
	}
	return o
}

// spawnsInside is a program. It spawns a child in a container, prints a line, and waits.
func spawnsInside(ctx context.Context) error {
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("begins")
	if _, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"},
		in(decode(os.Getenv(placeEnv)))); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}

func in(o *oci.Launcher) forkspawn.Option {
	return forkspawn.WithCommand(forkspawn.Command{Launcher: o})
}

func spawn(t testing.TB, s *forkspawn.Spawner, o *oci.Launcher, entry string,
	opts ...forkspawn.Option) *forkspawn.Child {
	t.Helper()
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: entry}, append(opts, in(o))...)
	require.NoError(t, err)
	return c
}

func requireEcho(t testing.TB, c *forkspawn.Child) {
	t.Helper()
	ctx := testkit.Context(t)
	require.NoError(t, c.Send(ctx, "word"))
	var got string
	require.NoError(t, c.Recv(ctx, &got))
	require.Equal(t, "word", got)
}
