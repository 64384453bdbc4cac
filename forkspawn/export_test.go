package forkspawn

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
)

// SetKillBound shortens the wait for a process that got SIGKILL, until the returned function is called.
func SetKillBound(d time.Duration) (restore func()) {
	old := killBound
	killBound = d
	return func() { killBound = old }
}

// SparePIDs returns the processes of the spares that wait, the next to be taken first.
func SparePIDs(s *Spawner) (pids []int) {
	s.spares.mu.Lock()
	defer s.spares.mu.Unlock()
	for _, sp := range slices.Backward(s.spares.idle) {
		pids = append(pids, sp.PID())
	}
	return pids
}

// NameProcess names this process as its program.
func NameProcess() { nameProcess() }

// Forked is what a child that was forked starts with.
type Forked struct {
	Ticket  handshake.Ticket
	Dial    func(context.Context) (net.Conn, error) // nil where the child is to dial the ticket's address
	Control func() (net.Conn, error)                // nil where it is to attach one
}

// ServeAsTemplate is the part of Init that is about templates: it returns in each child that is forked, and reports false in a
// process that is no template.
func ServeAsTemplate() (child Forked, ok bool, err error) {
	warmUp, ok := takeTemplateOrder()
	if !ok {
		return child, false, nil
	}
	ticket, how, err := serveAsTemplate(warmUp)
	return Forked{ticket, how.dial, how.control}, true, err
}
