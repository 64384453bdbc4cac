//go:build unix

package roles

import (
	"context"
	"os"
	"os/exec"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// LeavesDaemon is the argument of leaves-daemon.
type LeavesDaemon struct {
	PIDFile string // where the daemon writes its pid
	Exit    bool   // whether the child exits at once
}

// leavesDaemon starts a program without this library. The program leaves the
// child's session and process group.
func leavesDaemon(ctx context.Context, p *forkspawn.Parent) error {
	var args LeavesDaemon
	if err := p.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	const script = `setsid sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600' "$0" &`
	if err := exec.Command("sh", "-c", script, args.PIDFile).Run(); err != nil {
		return err
	}
	for { // the daemon starts after its parent, the shell, has exited
		if _, err := os.Stat(args.PIDFile); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := p.Send(ctx, "left"); err != nil || args.Exit {
		return err
	}
	<-ctx.Done()
	return nil
}
