//go:build unix

package roles

import (
	"context"
	"runtime"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func callsGoexit(context.Context, *forkspawn.Parent) error {
	runtime.Goexit()
	return nil
}
