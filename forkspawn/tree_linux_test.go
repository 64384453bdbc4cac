package forkspawn_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// TestOrphan_EndsAfterItsParentIsKilled is the same with one child.
func TestTree_EndsAfterAKill(t *testing.T) {
	spawntest.NoLeaks(t)
	for _, noSignal := range []bool{false, true} {
		for _, levels := range []int{3, 2, 1} { // below the killed process
			t.Run(fmt.Sprintf("%d levels, with the kernel's signal: %t", levels, !noSignal),
				func(t *testing.T) {
					s := newSpawner(t, forkspawn.Config{})
					c := spawn(t, s, spawnspec.Spec{
						Name: "r", Entry: "tree-node",
						Args: roles.Tree{Levels: levels, Breadth: 2,
							Obey: true, NoSignal: noSignal},
					})
					var pids []int
					require.NoError(t, c.Recv(testkit.Context(t), &pids))
					require.Len(t, pids, 1<<(levels+1)-1)
					began := time.Now()
					_, err := c.Kill()
					require.NoError(t, err)
					for _, pid := range pids {
						testkit.Eventually(t, "process "+itoa(pid)+" has ended", func() bool {
							return !running(pid)
						})
					}
					t.Logf("%d descendants had ended %v after the kill",
						len(pids)-1, time.Since(began))
				})
		}
	}
}
