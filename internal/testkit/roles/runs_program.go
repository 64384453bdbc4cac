//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// runsProgram starts a shell, a shell below it, and a server below that. The server
// ignores SIGTERM. When it is up, runsProgram prints the process group, and waits.
func runsProgram(ctx context.Context) error {
	os.Unsetenv(testkit.RoleEnv)
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	const server = `trap "" TERM HUP; echo up >&2; sleep 300 & wait; wait`
	c, err := s.Start(ctx, forkspawn.Command{Path: "sh",
		Args: []string{"-c", `sh -c 'sh -c "$0"; true' "$0"; true`, server}},
		forkspawn.ReadyOnOutput("up"))
	if err != nil {
		return err
	}
	fmt.Println(c.PID())
	<-ctx.Done()
	return nil
}
