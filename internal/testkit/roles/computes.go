//go:build unix

package roles

import (
	"context"
	"errors"
	"fmt"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// computes never receives. It succeeds when the context ends by a request to
// stop.
func computes(ctx context.Context, p *forkspawn.Parent) error {
	if err := p.Send(ctx, "computing"); err != nil {
		return err
	}
	for ctx.Err() == nil {
		for range 1000 {
		}
	}
	var asked *forkspawn.CancelError
	if !errors.As(context.Cause(ctx), &asked) {
		return fmt.Errorf("stopped for another reason: %w", context.Cause(ctx))
	}
	return nil
}
