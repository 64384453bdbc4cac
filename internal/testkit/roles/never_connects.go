//go:build unix

package roles

import (
	"context"
)

// neverConnects does nothing.
func neverConnects(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
