//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() {
	moreEntries["settings"] = func(ctx context.Context, p *forkspawn.Parent) error {
		return p.Send(ctx, []string{
			"GOGC " + fmt.Sprint(debug.SetGCPercent(100)),
			"GOMEMLIMIT " + fmt.Sprint(debug.SetMemoryLimit(-1)),
			"GOMAXPROCS " + fmt.Sprint(runtime.GOMAXPROCS(0)),
			"TZ " + time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Local().Format("15:04"),
		})
	}
}

// An executed child reads them at its start, and the template has read others.
func TestForked_VariablesOfTheRuntimeHaveAnEffect(t *testing.T) {
	needForks(t)
	ask := func(method forkspawn.Method, env ...string) (settings []string) {
		s := newSpawner(t, forkspawn.Config{Method: method})
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "settings"},
			forkspawn.WithCommand(forkspawn.Command{Env: append(os.Environ(), env...)}))
		require.NoError(t, err)
		require.NoError(t, c.Recv(testkit.Context(t), &settings))
		return settings
	}
	for _, env := range [][]string{
		{"GOGC=17", "GOMEMLIMIT=123MiB", "GOMAXPROCS=7", "TZ=Asia/Tokyo"},
		{"GOGC=off", "GOMEMLIMIT=1000000000", "GOMAXPROCS=x", "TZ="},
		{"GOGC=x", "GOMEMLIMIT=500000000B", "TZ=:/usr/share/zoneinfo/Asia/Kolkata"},
		{"TZ=Nowhere/Never"},
	} {
		assert.Equal(t, ask(forkspawn.MethodExec, env...), ask(forkspawn.MethodForkserver, env...),
			"%q", env)
	}
	s := forking(t)
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{
		Env: append(os.Environ(), "GOMEMLIMIT=much")}, spawnspec.Spec{Name: "c", Entry: "settings"})
	assert.Contains(t, boot.Stderr, `malformed GOMEMLIMIT "much"`)
}
