//go:build unix

package roles

import (
	"context"
	"strings"

	"github.com/spawnwire/spawnwire/handshake"
)

// wrongSecret joins with another secret than the ticket's.
func wrongSecret(ctx context.Context) error {
	conn, ticket, err := dial(ctx)
	if err != nil {
		return err
	}
	fields := strings.SplitN(ticket.Encode(), " ", 4)
	fields[2] = strings.Repeat("5e", 32)
	if ticket, err = handshake.ParseTicket(strings.Join(fields, " ")); err != nil {
		return err
	}
	_, err = handshake.Join(ctx, conn, ticket, handshake.JoinConfig{})
	return err
}
