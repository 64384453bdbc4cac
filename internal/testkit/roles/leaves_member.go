//go:build unix

package roles

import (
	"context"
	"os/exec"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// leavesMember starts a process in its group, sends its pid, and ends.
func leavesMember(ctx context.Context, p *forkspawn.Parent) error {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		return err
	}
	return p.Send(ctx, cmd.Process.Pid)
}
