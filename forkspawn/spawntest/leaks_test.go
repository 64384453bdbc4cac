//go:build unix

package spawntest_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// leaks has a function for each kind of leak. The function makes one and returns
// its description in a report and a function that removes it. Files with the
// name of a platform add more.
var leaks = map[string]func(testing.TB) (name string, undo func()){
	"goroutine": func(testing.TB) (string, func()) {
		stop, ended := make(chan struct{}), make(chan struct{})
		go leakedGoroutine(stop, ended)
		return "spawntest_test.leakedGoroutine", func() { close(stop); <-ended }
	},
	"socket": func(t testing.TB) (string, func()) {
		path := filepath.Join(os.TempDir(), "left")
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		require.NoError(t, err)
		ln.SetUnlinkOnClose(false)
		require.NoError(t, ln.Close())
		return "socket " + path, func() { os.Remove(path) }
	},
	"directory": func(t testing.TB) (string, func()) {
		dir, err := os.MkdirTemp("", "spawnwire-")
		require.NoError(t, err)
		return "directory " + dir, func() { os.Remove(dir) }
	},
}

func leakedGoroutine(stop, ended chan struct{}) {
	<-stop
	close(ended)
}

func makeLeak(t testing.TB, kind string) (name string, undo func()) {
	t.Helper()
	require.Contains(t, leaks, kind)
	return leaks[kind](t)
}

func TestLeaks_EachKindIsNamed(t *testing.T) {
	spawntest.NoLeaks(t)
	for kind := range leaks {
		t.Run(kind, func(t *testing.T) {
			before := spawntest.TakeSnapshot(t)
			var name string
			var undo func()
			resetPatience := spawntest.SetPatience(10 * time.Millisecond)
			rec := record(func(r testing.TB) {
				spawntest.NoLeaks(r)
				name, undo = makeLeak(t, kind)
			})
			assert.True(t, rec.failed)
			assert.Contains(t, rec.log(), "left behind:\n")
			assert.Contains(t, rec.log(), name)
			var left []string
			spawntest.Eventually(t, "nothing but "+name+" is left", func() bool {
				left = before.Leaks()
				return len(left) == 1
			})
			assert.Contains(t, left[0], name)
			t.Log(left[0])
			resetPatience()
			undo()
			assert.Empty(t, before.Leaks())
		})
	}
}

func TestLeaks_NoneAfterCleanTest(t *testing.T) {
	rec := record(func(r testing.TB) {
		spawntest.NoLeaks(r)
		for range 3 {
			child := spawntest.Spawn(r, echo)
			var got string
			require.NoError(t, child.Send(t.Context(), "hello"))
			require.NoError(t, child.Recv(t.Context(), &got))
		}
		spawntest.NewSpawner(r, forkspawn.Config{})
	})
	assert.False(t, rec.failed, rec.log())
}

func BenchmarkLeaks_None(b *testing.B) {
	s := spawntest.TakeSnapshot(b)
	for b.Loop() {
		require.Empty(b, s.Leaks())
	}
}

func TestNoLeaks_RefusesParallelTests(t *testing.T) {
	t.Run("group", func(t *testing.T) {
		t.Run("parallel", func(t *testing.T) {
			t.Parallel()
			assert.Panics(t, func() { spawntest.NoLeaks(t) })
		})
	})
	t.Run("then parallel", func(t *testing.T) {
		spawntest.NoLeaks(t)
		assert.Panics(t, t.Parallel)
	})
}

func TestNoLeaks_WaitsForParallelSubtests(t *testing.T) {
	spawntest.NoLeaks(t)
	for range 4 {
		t.Run("one", func(t *testing.T) {
			t.Parallel()
			child := spawntest.Spawn(t, echo)
			require.NoError(t, child.Send(t.Context(), "hello"))
		})
	}
}

func TestEventually_ReportsState(t *testing.T) {
	resetBound := spawntest.SetBound(10 * time.Millisecond)
	rec := record(func(r testing.TB) {
		spawntest.Eventually(r, "the sun comes out", func() bool { return false })
		r.Errorf("went on")
	})
	assert.True(t, rec.failed)
	assert.Contains(t, rec.log(), "the sun comes out")
	assert.NotContains(t, rec.log(), "went on")

	resetBound()
	looks := 0
	rec = record(func(r testing.TB) {
		spawntest.Eventually(r, "three looks", func() bool { looks++; return looks == 3 })
	})
	assert.False(t, rec.failed)
	assert.Equal(t, 3, looks)

	rec = record(func(r testing.TB) {
		spawntest.Eventually(r, "never",
			func() bool { r.Fatalf("the condition can fail the test"); return true })
	})
	assert.Equal(t, "the condition can fail the test\n", rec.log())
}

func TestSpawn_RunsFunctionInChild(t *testing.T) {
	spawntest.NoLeaks(t)
	child := spawntest.Spawn(t, args, func(cfg *forkspawn.Config, spec *spawnspec.Spec) {
		cfg.Listen.Scheme, cfg.Listen.Target = "tcp", "127.0.0.1:0"
		spec.Name, spec.Args = "adder", "1 and 2"
	})
	var got []any
	require.NoError(t, child.Recv(t.Context(), &got))
	assert.Equal(t, []any{"adder", "tcp", "1 and 2"}, got)
	assert.NotEqual(t, os.Getpid(), child.PID())
}

func TestFunc_NamesDifferOnOneLine(t *testing.T) {
	assert.True(t, strings.HasPrefix(echo, "main_test.go:"), echo)
	assert.Equal(t, twin+"#2", sibling)
	for entry, want := range map[string]int{twin: 1, sibling: 2} {
		var got int
		require.NoError(t, spawntest.Spawn(t, entry).Recv(t.Context(), &got))
		assert.Equal(t, want, got)
	}
	assert.PanicsWithValue(t,
		"spawntest: Func called after Main, so that no child could know it; "+
			"call it for a package-level variable",
		func() { spawntest.Func(one) })
}

func TestSpawn_LogsStderr(t *testing.T) {
	rec := record(func(r testing.TB) {
		child := spawntest.Spawn(r, complain)
		var done string
		require.NoError(t, child.Recv(t.Context(), &done))
	})
	assert.False(t, rec.failed)
	assert.Contains(t, rec.log(), "the moon is locked")
}

func TestSpawn_FailsTestWhenChildIsNotReady(t *testing.T) {
	spawntest.NoLeaks(t)
	rec := record(func(r testing.TB) {
		spawntest.Spawn(r, echo,
			func(_ *forkspawn.Config, spec *spawnspec.Spec) { spec.Entry = "no such entry" })
		r.Errorf("went on")
	})
	assert.True(t, rec.failed)
	assert.Contains(t, rec.log(), `unknown entry "no such entry"`)
	assert.NotContains(t, rec.log(), "went on")

	rec = record(func(r testing.TB) { spawntest.NewSpawner(r, forkspawn.Config{StopGrace: -1}) })
	assert.Contains(t, rec.log(), "Config.StopGrace")
}
