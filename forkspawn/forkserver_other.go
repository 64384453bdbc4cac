//go:build !(linux && amd64)

package forkspawn

import (
	"context"
	"errors"
	"net"

	"github.com/spawnwire/spawnwire/handshake"
)

// canFork: New refuses MethodForkserver here.
const canFork = false

// forkserver is always nil here.
type forkserver struct{}

func newForkserver(*Spawner) *forkserver { return nil }

func (*forkserver) serves(*Command) bool                          { return false }
func (*forkserver) ready(context.Context, *Command) (bool, error) { return false, nil }
func (*forkserver) fork(context.Context, *ProcessAttr, func(message, control net.Conn)) (Process, error) {
	return nil, errUnsupported()
}
func (*forkserver) started(Process) {}
func (*forkserver) reaped(Process)  {}
func (*forkserver) close()          {}
func (*forkserver) wait()           {}

// serveAsTemplate fails: nobody asks for a template here.
func serveAsTemplate(string) (handshake.Ticket, joining, error) {
	return handshake.Ticket{}, joining{}, errors.New("forkspawn: a template is not available on this platform")
}
