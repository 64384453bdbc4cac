//go:build unix

package roles

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// ignoresRequests ignores requests to stop. If its argument is true it ignores
// SIGTERM, too.
func ignoresRequests(ctx context.Context, p *forkspawn.Parent) error {
	var sigterm bool
	p.Spec().DecodeArgs(&sigterm)
	if sigterm {
		signal.Ignore(syscall.SIGTERM)
	}
	if err := p.Send(context.Background(), "deaf"); err != nil {
		return err
	}
	forever()
	return nil
}
