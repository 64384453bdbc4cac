//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnsLeaf has a child of its own, sends its pid, and waits. When it is
// killed, only one mechanism can end that child. If the argument is true it is
// the parent-death signal, because the child ignores its parent's end. Else it
// is the end of the connection, because there is no signal.
func spawnsLeaf(ctx context.Context, p *forkspawn.Parent) error {
	var bySignal bool
	if err := p.Spec().DecodeArgs(&bySignal); err != nil {
		return err
	}
	s, err := forkspawn.New(forkspawn.Config{NoParentDeathSignal: !bySignal})
	if err != nil {
		return err
	}
	defer s.Close()
	cmd, spec := forkspawn.Command{},
		spawnspec.Spec{Name: "leaf", Entry: "ignores-requests", Args: true}
	if bySignal {
		cmd = Command("outlives-parent")
	}
	c, err := s.Spawn(ctx, spec, forkspawn.WithCommand(cmd))
	if err != nil {
		return err
	}
	if err := p.Send(ctx, c.PID()); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
