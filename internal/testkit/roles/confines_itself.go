//go:build unix

package roles

import (
	"context"
	"os"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// confinesItself moves into an empty root directory first, where no socket can be
// reached, and then echoes.
func confinesItself(ctx context.Context, p *forkspawn.Parent) error {
	var root string
	if err := p.Spec().DecodeArgs(&root); err != nil {
		return err
	}
	if err := syscall.Chroot(root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return echo(ctx, p)
}
