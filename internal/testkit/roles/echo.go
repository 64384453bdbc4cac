//go:build unix

package roles

import (
	"context"
	"errors"
	"io"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/transport"
)

// echo sends back each message, typed or raw, until the channel's end.
func echo(ctx context.Context, p *forkspawn.Parent) error {
	for {
		var v any
		err := p.Recv(ctx, &v)
		switch {
		case errors.Is(err, transport.ErrWrongKind):
			buf := make([]byte, 1<<20)
			n, err := p.RecvBytes(ctx, buf)
			if err != nil {
				return err
			}
			if err := p.SendBytes(ctx, buf[:n]); err != nil {
				return err
			}
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := p.Send(ctx, v); err != nil {
			return err
		}
	}
}
