package forkspawn

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
	"github.com/spawnwire/spawnwire/handshake"
)

// SetKillBound sets how long the library waits for a process after SIGKILL. The
// returned function restores the default.
func SetKillBound(d time.Duration) (restore func()) {
	old := killBound
	killBound = d
	return func() { killBound = old }
}

// SetConfirmBound sets how long Release waits for the child's last word.
func SetConfirmBound(d time.Duration) (restore func()) {
	old := confirmBound
	confirmBound = d
	return func() { confirmBound = old }
}

// ReleaseConn returns the connection for the requests of Release, and NextConn the
// child's end.
func ReleaseConn(c *Child) net.Conn { return c.releasing.conn }
func NextConn(p *Parent) net.Conn   { return p.requests }

// SendConns sends connections over another one, and ReceiveConns receives them.
var (
	SendConns    = sendConns
	ReceiveConns = receiveConns
)

// ReleaseAnswer is what a child answers to a request.
type ReleaseAnswer = releaseAnswer

// Ticket returns the ticket in a Handle.
func (h Handle) Ticket() handshake.Ticket { return h.ticket }

// SetGoVersion sets this program's Go version as the forkserver sees it. The returned
// function restores it.
func SetGoVersion(v string) (restore func()) {
	old := template.GoVersion
	template.GoVersion = v
	return func() { template.GoVersion = old }
}

// SparePIDs returns the pids of the waiting spares. Spawn takes the first one
// next.
func SparePIDs(s *Spawner) (pids []int) {
	s.spares.mu.Lock()
	defer s.spares.mu.Unlock()
	for _, sp := range slices.Backward(s.spares.idle) {
		pids = append(pids, sp.PID())
	}
	return pids
}

// Forked is the start of a forked child.
type Forked struct {
	Ticket handshake.Ticket
	// Dial is nil if the child shall dial the ticket's address.
	Dial    func(context.Context) (net.Conn, error)
	Control func() (net.Conn, error) // nil if the child shall attach one
}

// ServeAsTemplate is the part of Init for templates. It returns in each forked
// child, and reports whether this process was started as a template.
func ServeAsTemplate() (child Forked, ok bool, err error) {
	warmUp, ok := template.TakeOrder()
	if !ok {
		return child, false, nil
	}
	ticket, how, err := serveAsTemplate(warmUp)
	return Forked{ticket, how.dial, how.control}, true, err
}
