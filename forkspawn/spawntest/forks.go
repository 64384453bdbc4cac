package spawntest

import (
	"reflect"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// ForksDiffer forks three children from one template, which run the named entry. It
// receives one value from each. The test fails if two values are equal. So it finds
// identities and random numbers that an init or a warm-up has made for all of them; see
// [forkspawn.AfterFork].
//
// If [forkspawn.CheckForkserver] returns an error, the test is skipped. Each function in
// with can change the configuration and the spec first. It may set Config.WarmUp.
// ForksDiffer sets Config.Method itself.
func ForksDiffer(t testing.TB, entry string, with ...func(*forkspawn.Config, *spawnspec.Spec)) {
	t.Helper()
	needMain(t)
	if err := forkspawn.CheckForkserver(t.Context()); err != nil {
		t.Skipf("spawntest: %v", err)
	}
	cfg, spec := configure(entry, with)
	cfg.Method = forkspawn.MethodForkserver
	s := NewSpawner(t, cfg)
	var values []any
	for range 3 {
		child, err := s.Spawn(t.Context(), spec)
		if err != nil {
			t.Fatalf("spawntest: %v", err)
		}
		var v any
		if err := child.Recv(t.Context(), &v); err != nil {
			t.Fatalf("spawntest: the value of %s: %v", child.Name(), err)
		}
		for _, other := range values {
			if reflect.DeepEqual(v, other) {
				t.Errorf("spawntest: two children of a template have made the same value: %v", v)
				return
			}
		}
		values = append(values, v)
	}
}
