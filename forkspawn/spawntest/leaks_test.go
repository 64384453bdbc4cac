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

// leaks are things that a test can leave, by kind. Each makes one, and returns how it is called in a report and
// what removes it. Files with a platform's name add theirs.
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

func TestEachKindOfLeakIsReportedByName(t *testing.T) {
	spawntest.NoLeaks(t)
	for kind := range leaks {
		t.Run(kind, func(t *testing.T) {
			before := spawntest.TakeSnapshot(t)
			var name string
			var undo func()
			hasty := spawntest.SetPatience(10 * time.Millisecond)
			told := record(t, func(r testing.TB) {
				spawntest.NoLeaks(r)
				name, undo = makeLeak(t, kind)
			})
			assert.True(t, told.failed)
			assert.Contains(t, told.said.String(), "left behind:\n")
			assert.Contains(t, told.said.String(), name)
			hasty()
			hasty = spawntest.SetPatience(500 * time.Millisecond) // for what is just ending beside it
			left := before.Leaks()
			if assert.Len(t, left, 1, "nothing else is taken for a leak") {
				assert.Contains(t, left[0], name)
				t.Log(left[0])
			}
			hasty()
			undo()
			assert.Empty(t, before.Leaks())
		})
	}
}

func TestNothingIsReportedWhenNothingIsLeft(t *testing.T) {
	told := record(t, func(r testing.TB) {
		spawntest.NoLeaks(r)
		for range 3 {
			child := spawntest.Spawn(r, echo)
			var got string
			require.NoError(t, child.Send(t.Context(), "hello"))
			require.NoError(t, child.Recv(t.Context(), &got))
		}
		spawntest.NewSpawner(r, forkspawn.Config{})
	})
	assert.False(t, told.failed, told.said.String())
}

func TestALookIsQuick(t *testing.T) {
	const n = 100
	began := time.Now()
	s := spawntest.TakeSnapshot(t)
	for range n {
		require.Empty(t, s.Leaks())
	}
	t.Logf("a look at nothing takes %v", time.Since(began)/n)
}

func TestNoLeaksRefusesParallelTests(t *testing.T) {
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

func TestNoLeaksWaitsForParallelSubtests(t *testing.T) {
	spawntest.NoLeaks(t)
	for range 4 {
		t.Run("one", func(t *testing.T) {
			t.Parallel()
			child := spawntest.Spawn(t, echo)
			require.NoError(t, child.Send(t.Context(), "hello"))
		})
	}
}

func TestEventuallySaysWhatItWaitedFor(t *testing.T) {
	hasty := spawntest.SetBound(10 * time.Millisecond)
	told := record(t, func(r testing.TB) {
		spawntest.Eventually(r, "the sun comes out", func() bool { return false })
		r.Errorf("went on")
	})
	assert.True(t, told.failed)
	assert.Contains(t, told.said.String(), "the sun comes out")
	assert.NotContains(t, told.said.String(), "went on")

	hasty()
	looks := 0
	told = record(t, func(r testing.TB) {
		spawntest.Eventually(r, "three looks", func() bool { looks++; return looks == 3 })
	})
	assert.False(t, told.failed)
	assert.Equal(t, 3, looks)

	told = record(t, func(r testing.TB) {
		spawntest.Eventually(r, "never", func() bool { r.Fatalf("the condition can fail the test"); return true })
	})
	assert.Equal(t, "the condition can fail the test\n", told.said.String())
}

func TestSpawnRunsAFunctionAsAChild(t *testing.T) {
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

func TestFunctionsOnOneLineAreToldApart(t *testing.T) {
	assert.True(t, strings.HasPrefix(echo.Name(), "main_test.go:"), echo.Name())
	assert.Equal(t, twin.Name()+"#2", sibling.Name())
	for entry, want := range map[*spawntest.Entry]int{twin: 1, sibling: 2} {
		var got int
		require.NoError(t, spawntest.Spawn(t, entry).Recv(t.Context(), &got))
		assert.Equal(t, want, got)
	}
	assert.PanicsWithValue(t, "spawntest: Func called after Main, so that no child could know it; call it for a package-level variable",
		func() { spawntest.Func(one) })
}

func TestStderrOfTheChildIsInTheLogOfAFailedTest(t *testing.T) {
	for _, fail := range []bool{true, false} {
		told := record(t, func(r testing.TB) {
			child := spawntest.Spawn(r, complain)
			var done string
			require.NoError(t, child.Recv(t.Context(), &done))
			if fail {
				r.Errorf("it failed")
			}
		})
		assert.Equal(t, fail, strings.Contains(told.said.String(), "the moon is locked"), told.said.String())
	}
}

func TestChildThatDoesNotStartFailsTheTest(t *testing.T) {
	spawntest.NoLeaks(t)
	told := record(t, func(r testing.TB) {
		spawntest.Spawn(r, echo, func(_ *forkspawn.Config, spec *spawnspec.Spec) { spec.Entry = "no such entry" })
		r.Errorf("went on")
	})
	assert.True(t, told.failed)
	assert.Contains(t, told.said.String(), `unknown entry "no such entry"`)
	assert.Contains(t, told.said.String(), "stderr of the children")
	assert.NotContains(t, told.said.String(), "went on")

	told = record(t, func(r testing.TB) { spawntest.NewSpawner(r, forkspawn.Config{StopGrace: -1}) })
	assert.Contains(t, told.said.String(), "Config.StopGrace")
}
