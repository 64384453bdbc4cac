//go:build unix

package live_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/live"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// pprof runs go tool pprof on a profile and returns its output.
func pprof(t *testing.T, profile string, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "profile")
	testkit.WriteFile(t, file, profile)
	out, err := exec.CommandContext(testkit.Context(t), "go",
		append(append([]string{"tool", "pprof"}, args...), file)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestProfiles_OfTheWholeTree(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	grow(t, s, roles.Tree{Levels: 2, Breadth: 2})
	busy := spawn(t, s, spawnspec.Spec{Name: "busy", Entry: "computes"})
	h := serve(t, s, live.Config{})

	goroutines := h.get("pprof/goroutine")
	tags := pprof(t, goroutines, "-tags")
	for name := range named(h.tree()) {
		assert.Contains(t, tags, name)
	}
	assert.Regexp(t, `pid: Total`, tags)
	assert.Regexp(t, `n\.0\.1\n[^$]*roles\.treeNode`, pprof(t, goroutines, "-traces"),
		"a sample has its process and its functions")

	cpu := h.get("pprof/profile?seconds=1")
	assert.Contains(t, pprof(t, cpu, "-tags"), "busy")
	assert.Contains(t, pprof(t, cpu, "-top", "-tagfocus", "process=busy"), "roles.computes")

	// A stopped process is named, and holds nobody up.
	require.NoError(t, syscall.Kill(busy.PID(), syscall.SIGSTOP))
	testkit.Eventually(t, "the stopped process", func() bool {
		return named(h.tree())["busy"].State == "stopped"
	})
	began := time.Now()
	heap := h.get("pprof/heap")
	t.Logf("with a stopped process: %v", time.Since(began))
	assert.Regexp(t, `busy \(pid \d+\): .*stopped`, pprof(t, heap, "-comments"))
	assert.NotContains(t, pprof(t, heap, "-tags"), "busy")

	for _, at := range []string{"pprof/", "pprof/trace"} {
		status, _ := h.do(http.MethodGet, at)
		assert.Equal(t, http.StatusNotFound, status, at)
	}
	status, body := h.do(http.MethodGet, "pprof/nonsense")
	assert.Equal(t, http.StatusBadGateway, status)
	assert.Contains(t, body, `no profile "nonsense"`)
}
