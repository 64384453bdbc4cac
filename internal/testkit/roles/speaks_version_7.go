//go:build unix

package roles

import (
	"context"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
)

// speaksVersion7 offers only future versions of the protocol.
func speaksVersion7(ctx context.Context) error {
	conn, ticket, err := dial(ctx)
	if err != nil {
		return err
	}
	cfg := handshake.JoinConfig{Internal: access.JoinOptions{Versions: [2]uint{7, 9}}}
	_, err = handshake.Join(ctx, conn, ticket, cfg)
	return err
}
