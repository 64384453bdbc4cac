package spawntest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// What a child of the tests runs. TestMain is: func TestMain(m *testing.M) { spawntest.Main(m) }
var upper = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	var s string
	if err := parent.Recv(ctx, &s); err != nil {
		return err
	}
	return parent.Send(ctx, strings.ToUpper(s))
})

// A test runs a function as a child, talks to it, and leaves nothing behind.
func ExampleSpawn() {
	_ = func(t *testing.T) { // TestUpper
		spawntest.NoLeaks(t)
		child := spawntest.Spawn(t, upper)
		if err := child.Send(t.Context(), "hello"); err != nil {
			t.Fatal(err)
		}
		var reply string
		if err := child.Recv(t.Context(), &reply); err != nil || reply != "HELLO" {
			t.Fatal(reply, err)
		}
	}
}

// The settings of the Spawner, and the orders of the child, can be anything.
func ExampleSpawn_tcp() {
	_ = func(t *testing.T) {
		spawntest.Spawn(t, upper, func(cfg *forkspawn.Config, spec *spawnspec.Spec) {
			cfg.Listen = transport.Addr{Scheme: "tcp", Target: "127.0.0.1:0"}
			spec.Name = "upper-1"
		})
	}
}

// Many cases in parallel: each looks for its own processes, and the test around them for all the rest.
func ExampleMark() {
	_ = func(t *testing.T) { // TestCases
		spawntest.NoLeaks(t)
		for i := range 100 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				mark := spawntest.NewMark()
				child := spawntest.Spawn(t, upper, func(cfg *forkspawn.Config, _ *spawnspec.Spec) {
					cfg.Command.Env = mark.Env(nil)
				})
				child.Kill()
				spawntest.AwaitGone(t, child.PID())
				if left := mark.Leaks(); len(left) > 0 {
					t.Error(left)
				}
			})
		}
	}
}
