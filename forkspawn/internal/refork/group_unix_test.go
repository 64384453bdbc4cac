//go:build unix

package refork_test

import (
	"os/exec"
	"syscall"
)

// killGroup has a program's end by time-out be that of all its descendants that made no group of their own.
func killGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
