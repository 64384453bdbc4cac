//go:build !linux

package osproc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// MarkedNull returns nil, because marks are for Linux only.
func MarkedNull() (*os.File, error) { return nil, nil }

// MarkedPipe returns an error for errors.ErrUnsupported.
func MarkedPipe([]byte) (*os.File, error) {
	return nil, fmt.Errorf("a ticket on stdin on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Unmark does nothing.
func Unmark(*os.File) {}

// StdinIsMarked returns false.
func StdinIsMarked() bool { return false }

// UnmarkStdin does nothing.
func UnmarkStdin() {}

// ReadMarkedStdin returns nil.
func ReadMarkedStdin() []byte { return nil }
