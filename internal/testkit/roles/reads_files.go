//go:build unix

package roles

import (
	"context"
	"errors"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// readsFiles sends the contents of the files in its arguments, and waits.
func readsFiles(ctx context.Context, p *forkspawn.Parent) error {
	var paths []string
	if err := p.Spec().DecodeArgs(&paths); err != nil {
		return err
	}
	contents := make(map[string]string)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		contents[path] = string(b)
	}
	return errors.Join(p.Send(ctx, contents), p.Recv(ctx, new(any)))
}
