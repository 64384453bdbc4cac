//go:build unix

package roles

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// writesAndFailsPrepare writes to stderr before and after it has its spec. Then
// its Prepare function returns an error.
func writesAndFailsPrepare(ctx context.Context) error {
	fmt.Fprintln(os.Stderr, "before the spec")
	_, err := forkspawn.Join(ctx, forkspawn.JoinConfig{Prepare: func(spec *spawnspec.Spec) error {
		fmt.Fprintln(os.Stderr, "with the spec of", spec.Name)
		return errors.New("port 80 is taken")
	}})
	return err
}
