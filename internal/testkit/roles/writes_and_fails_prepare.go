//go:build unix

package roles

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// writesAndFailsPrepare writes to stderr before and after it has its spec. Then it
// fails before it is ready.
func writesAndFailsPrepare(ctx context.Context) error {
	fmt.Fprintln(os.Stderr, "before the spec")
	p, err := forkspawn.Join(ctx, forkspawn.JoinConfig{ReadyLater: true})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "with the spec of", p.Spec().Name)
	p.Exit(errors.New("port 80 is taken"))
	return nil
}
