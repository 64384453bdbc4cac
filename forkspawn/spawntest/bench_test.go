//go:build unix

package spawntest_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// A user's own program, from its start to its first answer.
func BenchmarkUpper(b *testing.B) {
	spawntest.BenchSpawn(b, upper, func(ctx context.Context, child *forkspawn.Child) error {
		if err := child.Send(ctx, "hello"); err != nil {
			return err
		}
		var reply string
		return child.Recv(ctx, &reply)
	})
}

func TestBench_ReportsEachMethod(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^$", "-test.bench=Upper",
		"-test.benchtime=3x")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"Upper/exec", "Upper/spares"} {
		_, line, found := strings.Cut(string(out), name)
		require.True(t, found, "%s", out)
		line, _, _ = strings.Cut(line, "\n")
		for _, unit := range []string{"ready-p50-ns", "ready-p99-ns", "answer-p50-ns",
			"answer-p99-ns", "floor-p50-ns", "x/floor"} {
			assert.Contains(t, line, unit)
		}
	}
}
