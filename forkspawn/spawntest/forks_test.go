//go:build unix

package spawntest_test

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

var (
	// own draws its numbers from a generator that was seeded before the fork.
	own    = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	shared = spawntest.Func(func(ctx context.Context, p *forkspawn.Parent) error {
		return p.Send(ctx, own.Uint64())
	})
)

// TestForksDiffer_WithoutCgo runs the tests below, because children can be forked only
// then.
func TestForksDiffer_WithoutCgo(t *testing.T) {
	if forkspawn.CheckForkserver(testkit.Context(t)) == nil {
		t.Skip("the tests below run by themselves")
	}
	exe := testkit.BuildTests(t, ".", "CGO_ENABLED=0")
	out, err := exec.CommandContext(t.Context(), exe, "-test.v",
		"-test.run=^TestForksDiffer_").CombinedOutput()
	assert.NoError(t, err, "%s", out)
	if testkit.CanFork {
		assert.Contains(t, string(out), "--- PASS: TestForksDiffer_FindsSharedState")
	}
}

func TestForksDiffer_FindsSharedState(t *testing.T) {
	if err := forkspawn.CheckForkserver(testkit.Context(t)); err != nil {
		t.Skip(err)
	}
	r := record(func(t testing.TB) { spawntest.ForksDiffer(t, shared) })
	assert.True(t, r.failed)
	assert.Contains(t, r.log(), "two children of a template have made the same value: ")

	r = record(func(t testing.TB) { spawntest.ForksDiffer(t, shared, withRenewal) })
	assert.False(t, r.failed, r.log())
}

// withRenewal uses a warm-up with the remedy.
func withRenewal(cfg *forkspawn.Config, _ *spawnspec.Spec) { cfg.WarmUp = "renewal" }

func init() {
	forkspawn.RegisterWarmUp("renewal", func() error {
		forkspawn.AfterFork(func() error {
			own = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
			return nil
		})
		return nil
	})
}

func makeID() uint64 { return rand.Uint64() }

var newID = spawntest.Func(func(ctx context.Context, p *forkspawn.Parent) error {
	return p.Send(ctx, makeID())
})

func TestForksDiffer_PassesIDs(t *testing.T) { spawntest.ForksDiffer(t, newID) }
