//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// leavesGrandchild starts a process with the same stdout and stderr, and exits
// with 3.
func leavesGrandchild(context.Context) error {
	cmd := exec.Command("sleep", "300")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "leaving", cmd.Process.Pid)
	os.Exit(3)
	return nil
}
