//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// outlivesStderr has a child of the entry floods-output. It passes the child's
// stderr on to its own stderr, without a reader.
func outlivesStderr(ctx context.Context) error {
	os.Unsetenv(testkit.RoleEnv) // the child plays no role
	s, err := forkspawn.New(forkspawn.Config{Stdout: forkspawn.Null()})
	if err != nil {
		return err
	}
	defer s.Close()
	child, err := s.Spawn(ctx, spawnspec.Spec{Entry: "floods-output"})
	if err != nil {
		return err
	}
	var done string
	if err := child.Recv(ctx, &done); err != nil {
		return err
	}
	if _, err := child.Stop(ctx); err != nil {
		return err
	}
	fmt.Println("alive")
	return nil
}
