//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// neverReady joins, writes "preparing" to stderr when it has its spec, and
// does not become ready.
func neverReady(ctx context.Context) error {
	_, err := forkspawn.Join(ctx, forkspawn.JoinConfig{Prepare: func(*spawnspec.Spec) error {
		fmt.Fprintln(os.Stderr, "preparing")
		<-ctx.Done()
		return ctx.Err()
	}})
	return err
}
