//go:build unix

package roles

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// reportsSpec sends fields of its spec and properties of its process.
func reportsSpec(ctx context.Context, p *forkspawn.Parent) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	_, ticket := os.LookupEnv(handshake.TicketEnv)
	comm, _ := os.ReadFile("/proc/self/comm")
	var args any
	if err := p.Spec().DecodeArgs(&args); err != nil && !errors.Is(err, spawnspec.ErrNoArgs) {
		return err
	}
	return p.Send(ctx, map[string]any{
		"name": p.Spec().Name, "dir": dir, "depth": p.Spec().Depth, "method": p.Spec().Method,
		"parent": p.Identity().PID, "ppid": os.Getppid(), "spec args": args,
		"deadline": deadline, "ticket": ticket, "comm": strings.TrimSpace(string(comm)),
		"args": strings.Join(os.Args[1:], " "), "env": os.Getenv("GREETING"),
	})
}
