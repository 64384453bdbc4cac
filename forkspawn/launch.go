package forkspawn

import (
	"context"
	"errors"
	"net"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
)

// Launcher starts children in another place than as a process of this program. Package
// launch/ssh has one for other machines, launch/oci one for containers, launch/slurm one
// for the nodes of a cluster, and the module launch/kubernetes one for pods. The handshake,
// the boot race, the stop ladder and the errors of this package remain the same.
type Launcher interface {
	// Launch starts one process and returns when it runs, or could not be started.
	// It is called concurrently. ctx bounds the start and not the process. After an
	// error nothing is left of the start.
	Launch(ctx context.Context, l *Launch) (Launched, error)
}

// Launched is a process that a [Launcher] has started. Its PID is 0, because another
// kernel has given the number.
type Launched interface {
	Process
	// Err returns, after Wait, what the status does not say, or nil: the connection to
	// the other machine was lost and the status is unknown, or the kernel has killed
	// the process for lack of memory, for example.
	Err() error
}

// Launch is one start by a [Launcher].
type Launch struct {
	// ProcessAttr is what to start. An empty Path is this program, and Dir is a
	// directory of the other place. Env is in addition to the environment there.
	// Stdin is nil. The files are closed when Launch has returned.
	ProcessAttr
	// Ticket is the ticket of the child. The child must get it with an address that
	// the child can dial, and nobody else may see it.
	Ticket handshake.Ticket
	// Start starts a program of this machine, such as ssh, as the Spawner starts its
	// children. A ParentDeathSignal of zero is SIGKILL, and
	// Config.NoParentDeathSignal turns each off.
	Start func(context.Context, ProcessAttr) (Process, error)
	// Accept takes over a connection from the child.
	Accept func(net.Conn)
	// Go calls a function in a goroutine that Spawner.Close waits for. The function
	// returns soon after the child has ended and its connections are closed.
	Go func(func())
}

// launchAway is launch for a command with a Launcher.
func (a *attempt) launchAway(
	ctx context.Context, ticket handshake.Ticket,
) (Process, capture.Streams, error) {
	if a.program {
		return nil, capture.Streams{}, errProgramAway
	}
	if a.stdin.s.Mode != capture.ModeDefault && a.stdin.s.Mode != capture.ModeNull {
		return nil, capture.Streams{}, &ConfigError{Field: "Stdin",
			Reason: "a Command with a Launcher needs the default"}
	}
	if len(a.cmd.Files) > 0 || a.cmd.Connections || a.cmd.Sys != nil {
		return nil, capture.Streams{}, &ConfigError{Field: "Command.Launcher",
			Reason: "Files, Connections and Sys do not leave this machine"}
	}
	attr := ProcessAttr{Command: a.cmd, Dir: a.spec.Dir, OwnGroup: true}
	streams, err := a.openStreams(&attr)
	if err != nil {
		return nil, capture.Streams{}, err
	}
	ends := streams.TakeChildEnds()
	defer func() {
		for _, f := range ends {
			f.Close()
		}
	}()
	streams.Run() // the launcher can write before the child is there
	proc, err := a.cmd.Launcher.Launch(ctx, &Launch{
		ProcessAttr: attr, Ticket: ticket,
		Start:  a.s.startHere,
		Accept: func(conn net.Conn) { a.s.peers.Serve(access.Key{}, conn) },
		Go:     a.s.reaps.Go,
	})
	if err != nil {
		streams.End()
		streams.Close()
		return nil, capture.Streams{}, err
	}
	return proc, streams, nil
}

var errProgramAway = errors.New("a Launcher does not start programs without the protocol")

// startHere is Launch.Start.
func (s *Spawner) startHere(ctx context.Context, attr ProcessAttr) (Process, error) {
	if s.cfg.NoParentDeathSignal {
		attr.ParentDeathSignal = 0
	} else if attr.ParentDeathSignal == 0 {
		attr.ParentDeathSignal = sigkill
	}
	return s.startOnThread(ctx, &attr)
}

// lostOf returns what the status of a process does not say, or nil.
func lostOf(p Process) error {
	if l, ok := p.(Launched); ok {
		return l.Err()
	}
	return nil
}

// startProcess starts the process of attr.
func (a *attempt) startProcess(
	ctx context.Context, attr *ProcessAttr, forked bool,
) (proc Process, err error) {
	defer func() {
		if err != nil {
			closeAll([]net.Conn{a.conns, a.requests})
		}
	}()
	if a.cmd.Connections && !a.program {
		far, err := openConns(attr, connsName, &a.conns)
		if err != nil {
			return nil, err
		}
		defer far.Close()
	}
	if a.cmd.Releasable {
		far, err := openConns(attr, requestsName, &a.requests)
		if err != nil {
			return nil, err
		}
		defer far.Close()
	}
	if forked {
		proc, err = a.s.forks.fork(ctx, attr, a.connection())
	} else {
		proc, err = a.s.startOnThread(ctx, attr)
	}
	return proc, err
}
