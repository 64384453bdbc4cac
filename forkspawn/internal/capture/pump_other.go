//go:build !unix

package capture

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
)

// available reports whether this platform can capture a child's output.
const available = false

// Pump is not available here.
type Pump struct{}

// newPump returns an error that matches errors.ErrUnsupported.
func newPump(io.Writer, bool, func() func([]byte)) (*Pump, *os.File, error) {
	return nil, nil,
		fmt.Errorf("capturing a child's output on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// pipe returns an error that matches errors.ErrUnsupported.
func pipe(int) (r, w *os.File, err error) {
	return nil, nil, fmt.Errorf("pipes to a child on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (*Pump) run()        {}
func (*Pump) settle()     {}
func (*Pump) end() bool   { return true }
func (*Pump) lost() int64 { return 0 }

// SurviveReaders does nothing, because this platform has no SIGPIPE.
func SurviveReaders() {}

// ReplaceBroken does nothing here.
func ReplaceBroken() {}

// LastBytes returns nothing.
func (*Pump) LastBytes() string { return "" }
