//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// joins is a program without Init. It joins and echoes.
func joins(ctx context.Context) error {
	p, err := forkspawn.Join(ctx, forkspawn.JoinConfig{})
	if err != nil {
		return err
	}
	if err := echo(p.Context(), p); err != nil {
		return err
	}
	return p.Close(0, "")
}
