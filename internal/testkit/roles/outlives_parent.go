//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// outlivesParent goes on when its parent ends. It logs all the time, and so does a
// shell that it starts afterwards. Its spec's argument is a file for the shell to
// make after its first line.
func outlivesParent(ctx context.Context) error {
	gone := make(chan struct{})
	parent, err := forkspawn.Join(ctx, forkspawn.JoinConfig{OnParentGone: func() { close(gone) }})
	if err != nil {
		return err
	}
	for {
		fmt.Fprintln(os.Stderr, "the survivor lives")
		select {
		case <-gone:
			var file string
			if err := parent.Spec().DecodeArgs(&file); err != nil {
				return err
			}
			cmd := exec.Command("sh", "-c", "echo so does its child >&2 && echo > "+file)
			cmd.Stderr = os.Stderr
			if err := cmd.Run(); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}
