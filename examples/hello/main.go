// Command hello spawns a child of itself and speaks with it: the program of the README.
package main

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func upper(ctx context.Context, parent *forkspawn.Parent) error {
	for {
		var s string
		if err := parent.Recv(ctx, &s); err != nil {
			return err // the parent asks us to stop, or is gone
		}
		if err := parent.Send(ctx, strings.ToUpper(s)); err != nil {
			return err
		}
	}
}

func main() {
	forkspawn.Register("upper", upper) // what a child of this program can be asked to run
	forkspawn.Init()                   // in a child: joins its parent, runs the entry, exits

	ctx := context.Background()
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close() // no child outlives it

	child, err := spawner.Spawn(ctx, spawnspec.Spec{Name: "upper-1", Entry: "upper"})
	if err != nil {
		log.Fatal(err) // a *forkspawn.BootError: phase, exit status, last lines of stderr, cause
	}
	var reply string
	if err := child.Send(ctx, "hello"); err != nil {
		log.Fatal(err)
	}
	if err := child.Recv(ctx, &reply); err != nil {
		log.Fatal(err) // a *forkspawn.ExitError, if it died: exit status, last lines of stderr
	}
	fmt.Println(reply)
	fmt.Println(child.Stop(ctx)) // asks, then SIGTERM, then SIGKILL; says which one it took
}
