//go:build unix

package roles

import (
	"context"
	"log/slog"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// joinsAndLogs is a program without Init. With an argument it sets a logger of
// its own first.
func joinsAndLogs(ctx context.Context) error {
	if len(os.Args) > 1 {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	p, err := forkspawn.Join(ctx, forkspawn.JoinConfig{})
	if err != nil {
		return err
	}
	logs(p.Context(), p)
	return p.Close(0, "")
}
