//go:build unix

package forkspawn_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// readyMethods runs a test with children of each start method.
func readyMethods(t *testing.T, f func(t *testing.T, cfg forkspawn.Config)) {
	for name, cfg := range map[string]forkspawn.Config{
		"exec":       {Method: forkspawn.MethodExec},
		"in process": {Method: forkspawn.MethodInProcess},
		"spare":      {Method: forkspawn.MethodExec, Spares: 1},
		"forkserver": {Method: forkspawn.MethodForkserver},
	} {
		t.Run(name, func(t *testing.T) {
			if cfg.Method == forkspawn.MethodForkserver {
				if err := forkspawn.CheckForkserver(testkit.Context(t)); err != nil {
					t.Skip(err)
				}
			}
			spawntest.NoLeaks(t)
			f(t, cfg)
		})
	}
}

func prepares(what roles.PreparesArgs) spawnspec.Spec {
	return spawnspec.Spec{Name: "server", Entry: "prepares", Args: what}
}

func TestReady_CarriesAValue(t *testing.T) {
	readyMethods(t, func(t *testing.T, cfg forkspawn.Config) {
		ctx := testkit.Context(t)
		s := newSpawner(t, cfg)
		for _, what := range []roles.PreparesArgs{roles.Prepares, roles.PreparesTwice} {
			child, err := s.Spawn(ctx, prepares(what))
			require.NoError(t, err)
			var value, reply string
			require.NoError(t, child.ReadyValue(&value))
			assert.Equal(t, "prepared", value)
			var number int
			assert.Error(t, child.ReadyValue(&number), "a value of another type")
			require.NoError(t, child.Send(ctx, "hello"))
			require.NoError(t, child.Recv(ctx, &reply))
			assert.Equal(t, "hello", reply)
			result, err := child.Stop(ctx)
			require.NoError(t, err)
			assert.Equal(t, forkspawn.ExitedStatus(0), result.Status)
		}
		child, err := s.Spawn(ctx, prepares(roles.PreparesNil))
		require.NoError(t, err)
		assert.ErrorIs(t, child.ReadyValue(new(string)), handshake.ErrNoReadyValue)
	})
}

func TestReady_FailureBeforeIsTheChildsOwnWords(t *testing.T) {
	readyMethods(t, func(t *testing.T, cfg forkspawn.Config) {
		ctx := testkit.Context(t)
		s := newSpawner(t, cfg)
		for what, text := range map[roles.PreparesArgs]string{
			roles.FailsBefore: "port 80 is taken",
			roles.EndsBefore:  "it ended before it was ready",
		} {
			boot := spawnError(t, ctx, s, forkspawn.Command{}, prepares(what))
			assert.Equal(t, handshake.PhaseReady, boot.Phase, "%v", boot)
			var failed *handshake.FailedError
			require.ErrorAs(t, boot, &failed)
			assert.Equal(t, text, failed.Text)
		}
		boot := spawnError(t, ctx, s, forkspawn.Command{}, prepares(roles.PanicsBefore))
		assert.ErrorIs(t, boot, forkspawn.ErrDied)
		assert.Contains(t, boot.Stderr, "no port at all")
	})
}

func TestReady_PreparationIsBounded(t *testing.T) {
	readyMethods(t, func(t *testing.T, cfg forkspawn.Config) {
		ctx := testkit.Context(t)
		s := newSpawner(t, cfg)
		if cfg.Spares > 0 {
			require.NoError(t, s.AwaitSpares(ctx))
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		boot := spawnError(t, short, s, forkspawn.Command{}, prepares(roles.HangsBefore))
		assert.ErrorIs(t, boot, short.Err())
	})
}
