// Command spawnwire is a child of this library, with nothing else linked: it waits until it is asked to stop.
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
