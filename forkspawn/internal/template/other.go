//go:build !(linux && (amd64 || arm64))

package template

import (
	"context"
	"errors"
	"net"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
)

// Supported reports whether this platform has templates.
const Supported = false

var errUnsupported = errors.New("a template is not available on this platform")

// Forkserver is not available here.
type Forkserver struct{}

// New returns a Forkserver whose methods fail.
func New(Config) *Forkserver { return &Forkserver{} }

// Ready returns an error.
func (*Forkserver) Ready(context.Context) error { return errUnsupported }

// PID returns 0.
func (*Forkserver) PID() int { return 0 }

// Fork returns an error.
func (*Forkserver) Fork(
	context.Context, *osproc.Attr, func(message, control net.Conn),
) (*osproc.Process, error) {
	return nil, errUnsupported
}

// Started does nothing.
func (*Forkserver) Started(*osproc.Process) {}

// Reaped does nothing.
func (*Forkserver) Reaped(*osproc.Process) {}

// Close does nothing.
func (*Forkserver) Close() {}

// Wait does nothing.
func (*Forkserver) Wait() {}

// Serve returns an error.
func Serve(Program) (*Child, error) { return nil, errUnsupported }
