//go:build !linux

package spawntest

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// State returns "?" if the process exists and "" otherwise. On this platform a
// zombie exists too. On Windows State always returns "".
func State(pid int) string {
	if gone(pid) {
		return ""
	}
	return "?"
}

func gone(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return true
	}
	defer p.Release()
	err = p.Signal(syscall.Signal(0))
	return err != nil && !errors.Is(err, fs.ErrPermission)
}

// process is never listed on this platform, because that needs /proc.
type process struct{ thing }

func (process) kill() {}

func (things) addProcesses() error   { return nil }
func (things) addDescriptors() error { return nil }
