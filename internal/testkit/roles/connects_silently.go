//go:build unix

package roles

import (
	"context"
)

// connectsSilently connects and sends nothing.
func connectsSilently(ctx context.Context) error {
	if _, _, err := dial(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
