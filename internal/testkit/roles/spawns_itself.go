//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnsItself calls Init, as a program does, and has two children of the same role.
func spawnsItself(ctx context.Context) error {
	forkspawn.Init()
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	for range 2 {
		if _, err := s.Spawn(ctx, spawnspec.Spec{Name: "itself"},
			forkspawn.WithCommand(Command("spawns-itself"))); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}
