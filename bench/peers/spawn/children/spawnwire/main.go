// Spawnwire is a child of this library. It waits until its parent stops it.
package main

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func main() {
	forkspawn.Register("wait", func(ctx context.Context, _ *forkspawn.Parent) error {
		<-ctx.Done()
		return nil
	})
	forkspawn.Init()
}
