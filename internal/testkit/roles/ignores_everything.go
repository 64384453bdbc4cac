//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// Release ends one ignores-everything in this process.
var Release = make(chan struct{})

func ignoresEverything(context.Context, *forkspawn.Parent) error {
	<-Release
	return nil
}
