// Linked is the smallest possible child of this library. It has no parent, so it
// exits after the initialization of its packages.
package main

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func main() {
	forkspawn.Register("nothing", func(context.Context, *forkspawn.Parent) error { return nil })
	forkspawn.Init()
}
