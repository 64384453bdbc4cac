//go:build linux

package slurm_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/launch/slurm"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{
		"spawns-on-a-node": spawnsOnANode, "spawns-in-an-allocation": spawnsInAnAllocation})
	roles.Register()
	forkspawn.Register("is-killed", isKilled)
	launching.Register()
	spawntest.Main(m)
}

// spawnsOnANode is a program. It spawns a child on a node, prints the pids of the child
// and of its supervisor, and waits.
func spawnsOnANode(ctx context.Context) error {
	return spawnsAndWaits(ctx, new(slurm.Launcher), 1)
}

// spawnsInAnAllocation does the same with two children in an allocation.
func spawnsInAnAllocation(ctx context.Context) error {
	fmt.Println("allocates")
	a, err := slurm.Allocate(ctx, "--ntasks=2")
	if err != nil {
		return err
	}
	defer a.Close()
	return spawnsAndWaits(ctx, &slurm.Launcher{Allocation: a}, 2)
}

func spawnsAndWaits(ctx context.Context, n *slurm.Launcher, count int) error {
	os.Unsetenv(testkit.RoleEnv) // srun passes the environment on
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("begins")
	var pids []any
	for range count {
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-state"}, launching.On(n))
		if err != nil {
			return err
		}
		var there launching.State
		if err := c.Recv(ctx, &there); err != nil {
			return err
		}
		pids = append(pids, there.PID, there.PPID)
	}
	fmt.Println(pids...)
	<-ctx.Done()
	return nil
}

// spawnState spawns a child that reports its state.
func spawnState(t testing.TB, s *forkspawn.Spawner, n *slurm.Launcher,
) (c *forkspawn.Child, there launching.State) {
	t.Helper()
	c = launching.Spawn(t, s, n, "reports-state")
	require.NoError(t, c.Recv(testkit.Context(t), &there))
	return c, there
}
