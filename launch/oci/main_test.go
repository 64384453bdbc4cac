//go:build linux

package oci_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/containers"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/launch/oci"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{"spawns-inside": spawnsInside})
	roles.Register()
	launching.Register()
	forkspawn.Register("leaves-zombies", leavesZombies)
	spawntest.Main(m)
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
		launching.On(decode(os.Getenv(placeEnv)))); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}
