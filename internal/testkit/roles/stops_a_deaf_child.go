//go:build unix

package roles

import (
	"context"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// stopsADeafChild has a child that ignores requests and SIGTERM. It sends its
// Spawner's address and the child's pid. When it is asked to stop it stops the
// child, with graces of an hour, and writes the result to stderr.
func stopsADeafChild(ctx context.Context, p *forkspawn.Parent) error {
	s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, TermGrace: time.Hour})
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "ignores-requests", Args: true})
	if err != nil {
		return err
	}
	var ready string
	if err := c.Recv(ctx, &ready); err != nil {
		return err
	}
	if err := p.Send(ctx, []any{s.Addr().Target, c.PID()}); err != nil {
		return err
	}
	<-ctx.Done()
	result, err := c.Stop(context.Background())
	if err != nil {
		return err
	}
	os.Stderr.WriteString(result.String())
	return nil
}
