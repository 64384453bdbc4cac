//go:build unix

package roles

import (
	"context"
)

// closesAfterReady becomes ready, closes its connection, and lives on.
func closesAfterReady(ctx context.Context) error {
	conn, joined, err := join(ctx)
	if err != nil {
		return err
	}
	if err := joined.Ready(ctx, nil); err != nil {
		return err
	}
	conn.Close()
	<-ctx.Done()
	return ctx.Err()
}
