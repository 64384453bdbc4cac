package forkspawn

import (
	"errors"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/supervisor"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/link"
)

// ErrTicketLost is the error of [Join] and [New], and the last words of [Init], in a
// child without a ticket. Otherwise such a process would take itself for the root of
// a tree and start children again. It is found on Linux only, and not if the stdin
// of the child is another one than the default. In a pod it is found in the first
// process of the container.
var ErrTicketLost = errors.New("this process was started as a child, and its ticket is gone: " +
	"a program before it, such as sudo or env -i, has removed " + handshake.TicketEnv +
	" from the environment; keep the variable, or set Command.TicketOnStdin")

// takeTicket returns this process's ticket from the environment or from stdin. ok is
// false in a process that was not spawned.
//
// In the process that a Launcher starts on another machine, takeTicket does not
// return: the process supervises a child there.
func takeTicket() (t handshake.Ticket, ok bool, err error) {
	if order, ok := os.LookupEnv(link.SupervisorEnv); ok {
		os.Exit(supervisor.Run(order))
	}
	if t, ok, err = handshake.TakeTicket(); ok {
		ticketTaken.Store(true)
		osproc.UnmarkStdin() // before an entry can call New
		return t, ok, err
	}
	if !lacksTicket() {
		return t, false, nil
	}
	if text := osproc.ReadMarkedStdin(); len(text) > 0 {
		t, err = handshake.ParseTicket(strings.TrimSuffix(string(text), "\n"))
		return t, true, err
	}
	return t, true, ErrTicketLost
}

// ticketTaken is true in a process that had its ticket in the environment.
var ticketTaken atomic.Bool

// lacksTicket reports whether this process was started as a child, and has not had its
// ticket. In a pod stdin has no mark, and the file of the ticket stays. Process 1 of the
// container is the child or a wrapper of it, and other processes may be roots.
func lacksTicket() bool {
	if osproc.StdinIsMarked() {
		return true
	}
	if os.Getpid() != 1 || ticketTaken.Load() {
		return false
	}
	_, err := os.Lstat(access.TicketFile)
	return err == nil
}

// setStdin sets the child's stdin and its ticket. The default stdin has a mark until
// unmark is called.
func (a *attempt) setStdin(attr *ProcessAttr, ticket handshake.Ticket, forked bool) (err error) {
	stdin := a.stdin.s
	if a.program {
		attr.Stdin = stdin.Passed(os.Stdin)
		return nil
	}
	text := ticket.Encode()
	switch {
	case a.cmd.TicketOnStdin && stdin.Mode != capture.ModeDefault:
		return &ConfigError{Field: "Stdin", Reason: "Command.TicketOnStdin needs the default"}
	case a.cmd.TicketOnStdin:
		a.marked, err = osproc.MarkedPipe([]byte(text + "\n"))
		attr.Stdin = a.marked
		return publicError(err)
	case stdin.Mode == capture.ModeDefault && !forked:
		if a.marked, err = osproc.MarkedNull(); err != nil {
			return publicError(err)
		}
		attr.Stdin = a.marked
	default:
		attr.Stdin = stdin.Passed(os.Stdin)
	}
	attr.ticket = []byte(handshake.TicketEnv + "=" + text)
	return nil
}

// unmark removes the mark of the child's stdin. The child needs it no more.
func (a *attempt) unmark() {
	if a.marked != nil {
		osproc.Unmark(a.marked)
		a.marked.Close()
		a.marked = nil
	}
}
