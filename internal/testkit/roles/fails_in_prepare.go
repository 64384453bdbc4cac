//go:build unix

package roles

import (
	"context"
	"errors"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// failsInPrepare joins, and fails before it is ready.
func failsInPrepare(ctx context.Context) error {
	p, err := forkspawn.Join(ctx, forkspawn.JoinConfig{ReadyLater: true})
	if err != nil {
		return err
	}
	p.Exit(errors.New("port 80 is taken"))
	return nil
}
