//go:build unix

package roles

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// reportsEnvironment sends its environment, and the environment of a child of
// its own. It writes the former to stderr, too.
func reportsEnvironment(ctx context.Context, p *forkspawn.Parent) error {
	inherited, err := exec.Command("env").Output()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, os.Environ())
	return errors.Join(
		p.Send(ctx, []string{strings.Join(os.Environ(), "\n"), string(inherited)}),
		p.Recv(ctx, new(any)),
	)
}
