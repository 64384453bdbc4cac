//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// waits waits until it is asked to stop.
func waits(ctx context.Context, _ *forkspawn.Parent) error {
	<-ctx.Done()
	return ctx.Err()
}
