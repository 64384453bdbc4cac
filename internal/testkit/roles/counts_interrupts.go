//go:build unix

package roles

import (
	"context"
	"os"
	"os/signal"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// countsInterrupts counts the SIGINTs of a Ctrl-C, and sends the number when
// it is asked to stop.
func countsInterrupts(ctx context.Context, p *forkspawn.Parent) error {
	interrupts := make(chan os.Signal, 100)
	signal.Notify(interrupts, os.Interrupt)
	if err := p.Send(ctx, "counting"); err != nil {
		return err
	}
	<-ctx.Done()
	return p.Send(context.Background(), len(interrupts))
}
