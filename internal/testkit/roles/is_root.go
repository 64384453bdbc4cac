//go:build unix

package roles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// isRoot makes a Spawner. A child without its ticket cannot do that.
func isRoot(context.Context) error {
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	io.WriteString(os.Stdout, "a root")
	return s.Close()
}

// preparesSpawner is a program without Init. It makes a Spawner before it is ready.
func preparesSpawner(ctx context.Context) error {
	p, err := forkspawn.Join(ctx, forkspawn.JoinConfig{ReadyLater: true})
	if err != nil {
		return err
	}
	s, err := forkspawn.New(forkspawn.Config{})
	if err == nil {
		err = errors.Join(s.Close(), p.Ready(ctx, nil))
	}
	p.Exit(err)
	return nil
}

// runsRoot starts a process of the role is-root with its own stdin, and sends the
// output.
func runsRoot(ctx context.Context, p *forkspawn.Parent) error {
	role := Command("is-root")
	cmd := exec.Command(role.Path, role.Args...)
	cmd.Env, cmd.Stdin = role.Env, os.Stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return p.Send(ctx, string(out))
}
