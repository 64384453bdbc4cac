//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// SparePIDs returns the processes of a Spawner's spares. Package forkspawn
// does not export them; its tests set this variable.
var SparePIDs func(*forkspawn.Spawner) []int

// keepsSpares has two spares, and sends their pids. If its argument is true
// the kernel's parent-death signal ends them, too.
func keepsSpares(ctx context.Context, p *forkspawn.Parent) error {
	var bySignal bool
	if err := p.Spec().DecodeArgs(&bySignal); err != nil {
		return err
	}
	s, err := forkspawn.New(forkspawn.Config{Spares: 2, NoParentDeathSignal: !bySignal})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.AwaitSpares(ctx); err != nil {
		return err
	}
	if err := p.Send(ctx, SparePIDs(s)); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
