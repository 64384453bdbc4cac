//go:build unix

package roles

import (
	"context"
	"errors"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func fails(context.Context, *forkspawn.Parent) error { return errors.New("no luck today") }
