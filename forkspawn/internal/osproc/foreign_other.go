//go:build !linux

package osproc

import (
	"errors"
	"syscall"
	"time"
)

// CanRelease reports whether children can outlive their parent on this platform.
const CanRelease = false

// Foreign does not exist here; see the one of Linux.
type Foreign struct{}

// NewForeign returns errors.ErrUnsupported.
func NewForeign(int, int) (*Foreign, error) { return nil, errors.ErrUnsupported }

func (*Foreign) Hold() error                      { return errors.ErrUnsupported }
func (*Foreign) Unleash()                         {}
func (*Foreign) Close()                           {}
func (*Foreign) PID() int                         { return 0 }
func (*Foreign) Wait() Status                     { return Status{} }
func (*Foreign) Signal(syscall.Signal) error      { return errors.ErrUnsupported }
func (*Foreign) SignalGroup(syscall.Signal) error { return errors.ErrUnsupported }

// Leash does nothing here.
func (*Process) Leash() error { return nil }

// Unleash does nothing here.
func (*Process) Unleash() {}

// KillAfter returns errors.ErrUnsupported.
func KillAfter(time.Duration) (cancel func(), err error) { return nil, errors.ErrUnsupported }
