//go:build unix

package roles

import (
	"context"
	"errors"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// forgetsInit is a program without a call of Init. It exits with 42 if New
// returns ErrInitNotCalled.
func forgetsInit(context.Context) error {
	_, err := forkspawn.New(forkspawn.Config{})
	if errors.Is(err, forkspawn.ErrInitNotCalled) {
		os.Exit(42)
	}
	return err
}
