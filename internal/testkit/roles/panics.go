//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func panics(context.Context, *forkspawn.Parent) error { panic("at the disco") }
