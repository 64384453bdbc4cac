//go:build unix

package roles

import (
	"context"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// exits calls os.Exit. Its argument is the exit code.
func exits(_ context.Context, p *forkspawn.Parent) error {
	var code int
	if err := p.Spec().DecodeArgs(&code); err != nil {
		return err
	}
	os.Exit(code)
	return nil
}
