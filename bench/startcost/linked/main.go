// Command linked is the smallest child of this library: the code is there and its packages are initialised, and the
// process, which nobody spawned, ends where a child would join.
package main

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func main() {
	forkspawn.Register("nothing", func(context.Context, *forkspawn.Parent) error { return nil })
	forkspawn.Init()
}
