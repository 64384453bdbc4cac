//go:build unix

package roles

import (
	"context"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// reportsDescriptors sends the targets of its descriptors by number. If its
// argument is true, a child of its own does so, too.
func reportsDescriptors(ctx context.Context, p *forkspawn.Parent) error {
	var deeper bool
	p.Spec().DecodeArgs(&deeper)
	report := map[string]string{}
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, n := range names {
		if target, err := os.Readlink("/proc/self/fd/" + n.Name()); err == nil {
			report[n.Name()] = target
		}
	}
	if err := p.Send(ctx, report); err != nil {
		return err
	}
	if !deeper {
		return nil
	}
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-descriptors"})
	if err != nil {
		return err
	}
	if err := c.Recv(ctx, &report); err != nil {
		return err
	}
	return p.Send(ctx, report)
}
