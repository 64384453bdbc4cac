//go:build unix

package forkspawn_test

import (
	"context"
	"flag"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestMain(m *testing.M) {
	template.Soaked[runtime.GOARCH] = template.Soaked["amd64"] // this is the test
	testkit.PlayRole(roles.Programs)
	playFault()
	roles.SparePIDs = forkspawn.SparePIDs
	roles.Register()
	for name, run := range moreEntries {
		forkspawn.Register(name, run)
	}
	mainAlone(m)
	forkspawn.Init()
	flag.Set("test.parallel", "8") // parallel tests wait, most of the time
	flag.Parse()
	spawntest.Main(m)
}

// moreEntries are the entries of the tests of forked children.
var moreEntries = map[string]forkspawn.Run{}

// bound only finds hangs. It is also the grace of children that must not need
// force.
const bound = testkit.Patience

// alive reports whether there is a process with the number, or a zombie.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// newSpawner returns a Spawner with captured streams. The test's cleanup closes
// it. On an emulated machine a template takes longer than the default of
// Config.BootTimeout, because it forks two dozen children for its self-test.
func newSpawner(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	if cfg.BootTimeout == 0 {
		cfg.BootTimeout = bound
	}
	method := os.Getenv(testkit.MethodEnv)
	if method != "" && cfg.Method == "" && cfg.Start == nil {
		cfg.Method = forkspawn.Method(method)
	}
	return spawntest.NewSpawner(t, cfg)
}

// networks runs a test over each transport, as a subtest.
func networks(t *testing.T, f func(t *testing.T, listen transport.Addr)) {
	t.Run("uds", func(t *testing.T) { f(t, transport.Addr{}) })
	t.Run("tcp", func(t *testing.T) { f(t, transport.Addr{Scheme: "tcp", Target: "127.0.0.1:0"}) })
	t.Run("tls", func(t *testing.T) { f(t, transport.Addr{Scheme: "tls", Target: "127.0.0.1:0"}) })
}

func spawn(t testing.TB, s *forkspawn.Spawner, spec spawnspec.Spec) *forkspawn.Child {
	t.Helper()
	c, err := s.Spawn(testkit.Context(t), spec)
	require.NoError(t, err)
	return c
}

// spawnError spawns a child and requires a BootError. It checks that the process
// is gone.
func spawnError(t testing.TB, ctx context.Context, s *forkspawn.Spawner, cmd forkspawn.Command,
	spec spawnspec.Spec) *forkspawn.BootError {
	t.Helper()
	c, err := s.Spawn(ctx, spec, forkspawn.WithCommand(cmd))
	require.Nil(t, c)
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	t.Log(boot)
	if boot.PID != 0 {
		assert.False(t, alive(boot.PID), "the process is gone and reaped")
	}
	assert.Equal(t, spec.Name, boot.Name)
	return boot
}

func sh(script string) forkspawn.Command {
	return forkspawn.Command{Path: "sh", Args: []string{"-c", script}}
}

// running reports whether a process exists and is not a zombie.
func running(pid int) bool {
	state := spawntest.State(pid)
	return state != "" && state != "Z"
}

func itoa(n int) string { return strconv.Itoa(n) }

// needForks skips a test in a build with cgo. Package reforktest runs it
// in a build without.
func needForks(t *testing.T) {
	t.Helper()
	if !testkit.CanFork {
		t.Skip("children can be forked only on Linux, on amd64 and arm64")
	}
	if cgoEnabled {
		t.Skip("built with cgo; TestForked of internal/reforktest builds without")
	}
}
