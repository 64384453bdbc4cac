//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// ignoresSIGCHLD has children without exit statuses, because the kernel discards
// them. It prints how a group of one ended well, how a child failed, and the pid
// of a grandchild after its child's end.
func ignoresSIGCHLD(ctx context.Context) error {
	os.Unsetenv(testkit.RoleEnv)
	signal.Ignore(syscall.SIGCHLD)
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	restarts := forkspawn.GroupConfig{Restart: forkspawn.RestartOnFailure, MaxRestarts: 1}
	group, err := s.NewGroup(ctx, restarts)
	if err != nil {
		return err
	}
	if err := group.Go(spawnspec.Spec{Entry: "leaves-member"}, nil); err != nil {
		return err
	}
	fmt.Println("group:", group.Wait())
	fails, err := s.Spawn(ctx, spawnspec.Spec{Entry: "fails"})
	if err != nil {
		return err
	}
	fails.Wait(ctx)
	fmt.Println("fails:", fails.Err())
	leaves, err := s.Spawn(ctx, spawnspec.Spec{Entry: "leaves-member"})
	if err != nil {
		return err
	}
	var pid int
	if err := leaves.Recv(ctx, &pid); err != nil {
		return err
	}
	leaves.Wait(ctx)
	fmt.Println("grandchild:", pid)
	return nil
}
