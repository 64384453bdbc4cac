//go:build unix

package roles

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// logs logs a message of each level, and one of package log. Then it tells the
// parent, and waits.
func logs(ctx context.Context, p *forkspawn.Parent) error {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo,
		slog.LevelWarn, slog.LevelError} {
		slog.Log(ctx, level, level.String()+" of the child")
	}
	log.Print("package log of the child")
	return errors.Join(p.Send(ctx, "logged"), p.Recv(ctx, new(any)))
}

// logsFirst logs a message a while before it is ready.
func logsFirst(ctx context.Context, p *forkspawn.Parent) error {
	log.Print("it prepares itself")
	time.Sleep(100 * time.Millisecond)
	return errors.Join(p.Ready(ctx, nil), p.Recv(ctx, new(any)))
}
