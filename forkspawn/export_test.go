package forkspawn

import (
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
	for _, sp := range s.spares.idle {
		pids = append(pids, sp.PID())
	}
	return pids
}

// ServeAsTemplate is the part of Init that is about templates: it returns in each child that is forked, with its ticket, and reports false in a
// process that is no template.
func ServeAsTemplate() (handshake.Ticket, bool, error) {
	warmUp, ok := takeTemplateOrder()
	if !ok {
		return handshake.Ticket{}, false, nil
	}
	ticket, _, err := serveAsTemplate(warmUp)
	return ticket, true, err
}
