//go:build unix

package refork_test

import (
	"os/exec"
	"syscall"
)

// killGroup makes the end of a command by its context kill its process group.
func killGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
