//go:build unix

package spawntest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// upper runs in the child: it receives one string and sends it back in upper
// case.
//
// The tests also need: func TestMain(m *testing.M) { spawntest.Main(m) }
var upper = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	var s string
	if err := parent.Recv(ctx, &s); err != nil {
		return err
	}
	return parent.Send(ctx, strings.ToUpper(s))
})

// run runs a test function. In a real test go test does that.
func run(test func(testing.TB)) {
	if r := record(test); r.failed {
		fmt.Println("FAIL:", r.log())
	}
}

// A test spawns a child, exchanges messages with it, and checks that nothing is
// left behind.
func ExampleSpawn() {
	testUpper := func(t testing.TB) {
		spawntest.NoLeaks(t) // fails the test if a process, descriptor, ... is left
		child := spawntest.Spawn(t, upper)
		if err := child.Send(t.Context(), "hello"); err != nil {
			t.Fatalf("send: %v", err)
		}
		var reply string
		if err := child.Recv(t.Context(), &reply); err != nil {
			t.Fatalf("recv: %v", err)
		}
		fmt.Println(reply)
	}
	run(testUpper)
	// Output: HELLO
}

// A handler is tested without a child.
func ExampleServe() {
	run(func(t testing.TB) {
		mux := call.NewMux()
		shoutOut.Handle(mux, func(_ context.Context, s string) (string, error) {
			return strings.ToUpper(s), nil
		})
		conn := spawntest.Serve(t, mux, nil)
		fmt.Println(shoutOut.Call(context.Background(), conn, "hello"))
	})
	// Output: HELLO <nil>
}

// The Config and the Spec can be changed.
func ExampleSpawn_tcp() {
	run(func(t testing.TB) {
		child := spawntest.Spawn(t, upper, func(cfg *forkspawn.Config, spec *spawnspec.Spec) {
			cfg.Listen = transport.Addr{Scheme: "tcp", Target: "127.0.0.1:0"}
			spec.Name = "upper-1"
		})
		fmt.Println(child.Spec().Name)
	})
	// Output: upper-1
}
