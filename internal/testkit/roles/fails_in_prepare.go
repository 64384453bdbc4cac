//go:build unix

package roles

import (
	"context"
	"errors"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// failsInPrepare joins. Its Prepare function returns an error.
func failsInPrepare(ctx context.Context) error {
	_, err := forkspawn.Join(ctx, forkspawn.JoinConfig{Prepare: func(*spawnspec.Spec) error {
		return errors.New("port 80 is taken")
	}})
	return err
}
