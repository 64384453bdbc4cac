//go:build unix

package roles

import (
	"context"
	"errors"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// sendsGarbage sends an invalid hello.
func sendsGarbage(ctx context.Context) error {
	conn, _, err := dial(ctx)
	if err != nil {
		return err
	}
	ch := transport.New(conn, transport.Config{})
	hello := frame.Frame{Kind: frame.KindHello, Body: []byte{0x82, 0x40, 0x40}}
	if err := ch.Frames(access.Key{}).Write(ctx, hello); err != nil {
		return err
	}
	if _, err := ch.Frames(access.Key{}).Read(ctx); err != nil {
		return err
	}
	return errors.New("garbage was answered")
}
