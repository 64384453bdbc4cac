package spawntest

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// names counts how often Func has made each name. It needs no lock, because
// one goroutine initializes all package-level variables. It does so in the same
// order in parent and child, so both make the same names.
var names = map[string]int{}

// Func registers run as an entry for child processes and returns the entry's
// name, for [Spawn] or for spawnspec.Spec.Entry. The name is the position of
// the call, such as "upper_test.go:12".
//
// Func must be called to initialize a package-level variable, because the child
// must make the same call. It panics if it is called after [Main].
func Func(run forkspawn.Run) string {
	if tempDir != "" {
		panic("spawntest: Func called after Main, so that no child could know it; " +
			"call it for a package-level variable")
	}
	name := "func"
	if _, file, line, ok := runtime.Caller(1); ok {
		name = fmt.Sprintf("%s:%d", filepath.Base(file), line)
	}
	names[name]++
	if n := names[name]; n > 1 {
		name = fmt.Sprintf("%s#%d", name, n)
	}
	forkspawn.Register(name, run)
	return name
}

// Spawn spawns a child that runs the named entry, and returns it when it is
// ready. The entry comes from [Func] or from forkspawn.Register. If the child
// does not become ready, the test fails at once.
//
// The child is stopped when the test ends. Its stderr goes to the test's log.
//
// Each function in with can change the configuration and the spec first.
func Spawn(t testing.TB, entry string,
	with ...func(*forkspawn.Config, *spawnspec.Spec)) *forkspawn.Child {
	t.Helper()
	needMain(t)
	cfg, spec := configure(entry, with)
	child, err := NewSpawner(t, cfg).Spawn(t.Context(), spec)
	if err != nil {
		t.Fatalf("spawntest: %v", err)
	}
	return child
}

// configure returns the configuration and the spec for an entry, with the caller's
// changes.
func configure(
	entry string, with []func(*forkspawn.Config, *spawnspec.Spec),
) (cfg forkspawn.Config, spec spawnspec.Spec) {
	spec.Entry = entry
	for _, change := range with {
		change(&cfg, &spec)
	}
	return cfg, spec
}

// NewSpawner returns a new Spawner, which is closed when the test ends. The test
// fails at once if cfg is not valid, and it fails if Close returns an error. Lost
// output is only logged, because a test's log can be slow on a busy machine.
//
// If cfg.Stdout is zero, the children's stdout is captured and not shown. If
// cfg.Stderr is zero, their stderr goes to the test's log, where go test shows
// it if the test fails.
func NewSpawner(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	if cfg.Stdout == (forkspawn.Stream{}) {
		cfg.Stdout = forkspawn.Capture(nil)
	}
	if cfg.Stderr == (forkspawn.Stream{}) {
		cfg.Stderr = forkspawn.Capture(t.Output())
	}
	s, err := forkspawn.New(cfg)
	if err != nil {
		t.Fatalf("spawntest: %v", err)
	}
	t.Cleanup(func() {
		switch err := s.Close(); {
		case err == nil:
		case isLostOutput(err):
			t.Logf("spawntest: %v", err)
		default:
			t.Errorf("spawntest: %v", err)
		}
	})
	return s
}

// isLostOutput reports whether lost output is the only error of a Close.
func isLostOutput(err error) bool {
	if all, ok := err.(interface{ Unwrap() []error }); ok && len(all.Unwrap()) > 1 {
		return false
	}
	return errors.As(err, new(*forkspawn.LostOutputError))
}
