// Hello spawns a child of itself and talks to it (go run ./examples/hello).
package main

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// upper runs in the child.
func upper(ctx context.Context, parent *forkspawn.Parent) error {
	for {
		var s string
		if err := parent.Recv(ctx, &s); err != nil {
			return err // the parent asks us to stop, or has died
		}
		if err := parent.Send(ctx, strings.ToUpper(s)); err != nil {
			return err
		}
	}
}

func main() {
	forkspawn.Register("upper", upper) // an entry that children can run
	forkspawn.Init()                   // in a child: runs the entry and exits

	ctx := context.Background()
	spawner, err := forkspawn.New(forkspawn.Config{})
	check(err)
	defer spawner.Close() // stops all children
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "upper"})
	check(err) // a *forkspawn.BootError: phase, exit status, last lines of stderr
	check(child.Send(ctx, "hello"))
	var reply string
	check(child.Recv(ctx, &reply)) // a *forkspawn.ExitError if the child has died
	fmt.Println(reply)
	fmt.Println(child.Stop(ctx)) // asks, then sends SIGTERM, then SIGKILL
}

func check(err error) {
	if err != nil {
		log.Fatal(err) // the children end with this process
	}
}
