//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// waitsForDisconnect ignores requests to stop. The end of its connection ends
// it.
func waitsForDisconnect(_ context.Context, p *forkspawn.Parent) error {
	var v any
	return p.Recv(context.Background(), &v)
}
