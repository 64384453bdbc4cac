package osproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// CanExec reports whether this platform can start processes.
const CanExec = false

// SIGCONT has the number of Linux, because Windows has no such signal.
const SIGCONT = syscall.Signal(0x12)

// SIGCHLD has the number of Linux.
const SIGCHLD = syscall.Signal(0x11)

// SIGTTIN and SIGTTOU have the numbers of Linux.
const (
	SIGTTIN = syscall.Signal(0x15)
	SIGTTOU = syscall.Signal(0x16)
)

// Process is not available on Windows.
type Process struct{}

// Start returns an error that matches errors.ErrUnsupported. The promises of this
// package need the process groups, signals and inherited descriptors of Unix.
func Start(context.Context, *Attr) (*Process, error) {
	return nil, fmt.Errorf("forkspawn: starting processes on windows: %w", errors.ErrUnsupported)
}

// PID returns 0.
func (*Process) PID() int { return 0 }

// Wait returns an unknown status.
func (*Process) Wait() Status { return Status{} }

// Usage returns nothing.
func (*Process) Usage() Usage { return Usage{} }

// StoppedBy returns 0.
func (*Process) StoppedBy() syscall.Signal { return 0 }

// Signal returns os.ErrProcessDone.
func (*Process) Signal(syscall.Signal) error { return os.ErrProcessDone }

// SignalGroup returns os.ErrProcessDone.
func (*Process) SignalGroup(syscall.Signal) error { return os.ErrProcessDone }

// KeepToSelf returns false, because nothing was inherited.
func KeepToSelf(int) bool { return false }

func thisProgram() (string, error) { return programFromArgs() }

// Runs returns false.
func (*Process) Runs() bool { return false }

func blocking(*os.File) (*os.File, error) { return nil, nil }
