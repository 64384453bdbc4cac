//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// neverReady joins, writes "preparing" to stderr when it has its spec, and
// does not become ready.
func neverReady(ctx context.Context) error {
	if _, err := forkspawn.Join(ctx, forkspawn.JoinConfig{ReadyLater: true}); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "preparing")
	<-ctx.Done()
	return ctx.Err()
}
