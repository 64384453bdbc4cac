//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnsSurvivor has a child of the role outlives-parent with the same argument, and
// sends its pid.
func spawnsSurvivor(ctx context.Context, p *forkspawn.Parent) error {
	s, err := forkspawn.New(forkspawn.Config{NoParentDeathSignal: true})
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.Spawn(ctx, spawnspec.Spec{Name: "survivor", Args: p.Spec().Args},
		forkspawn.WithCommand(Command("outlives-parent")))
	if err != nil {
		return err
	}
	if err := p.Send(ctx, c.PID()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
