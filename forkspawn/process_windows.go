package forkspawn

import (
	"fmt"
	"os"
	"syscall"
)

const canExec = false

const sigcont = syscall.Signal(0x12) // of a stop ladder that only other platforms have

// OSProcess is a process that StartProcess started; on Windows there is none.
type OSProcess struct{}

// StartProcess is not available on Windows: the promises of this package rest on process groups, signals
// and inherited descriptors as Unix has them. Its error matches errors.ErrUnsupported.
func StartProcess(ProcessAttr) (*OSProcess, error) {
	return nil, fmt.Errorf("forkspawn: starting processes on windows: %w", errUnsupported())
}

// PID returns 0.
func (*OSProcess) PID() int { return 0 }

// Wait returns an unknown status.
func (*OSProcess) Wait() ExitStatus { return ExitStatus{} }

// Signal returns os.ErrProcessDone.
func (*OSProcess) Signal(syscall.Signal, bool) error { return os.ErrProcessDone }

func thisProgram() (string, error) { return programFromArgs() }
