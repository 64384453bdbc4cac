//go:build !linux

package spawntest

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// State returns "" when there is no such process, and else "?", as its state is not found on this platform.
func State(pid int) string {
	if !Running(pid) {
		return ""
	}
	return "?"
}

// Running tells whether there is such a process; on this platform a zombie runs too, and on Windows nothing
// does.
func Running(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	defer p.Release()
	err = p.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, fs.ErrPermission)
}

func gone(pid int) bool { return !Running(pid) }

// Without /proc there are no means to list processes, or what is open.
type (
	processes   struct{}
	descriptors struct{}
)

func listProcesses() (processes, error)     { return processes{}, nil }
func listDescriptors() (descriptors, error) { return descriptors{}, nil }

func (processes) since() []string   { return nil }
func (processes) killSince()        {}
func (descriptors) since() []string { return nil }

func (Mark) running() []string { return nil }
