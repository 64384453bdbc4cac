//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnsEcho has a child of its own, and sends its pid.
func spawnsEcho(ctx context.Context, p *forkspawn.Parent) error {
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	if err != nil {
		return err
	}
	if err := p.Send(ctx, c.PID()); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
