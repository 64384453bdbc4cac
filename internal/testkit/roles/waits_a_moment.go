//go:build unix

package roles

import (
	"context"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// waitsAMoment waits for its spec for 50 ms.
func waitsAMoment(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := forkspawn.Join(ctx, forkspawn.JoinConfig{})
	return err
}
