// Package peer has the competitors: this library, the floors below it and the peers beside it, each in a
// file of its own, behind one interface. Whoever adds one writes such a file and names it in All.
package peer

import (
	"context"
	"fmt"
	"time"
)

// Peer is one competitor, and one row of the tables: a library in one way of using it.
type Peer interface {
	// Name is the row's name.
	Name() string
	// Module is the module whose version is printed, "" for what comes with Go or the system.
	Module() string
	// Does says whether it has a way to do the job.
	Does(Job) bool
	// Open starts the other process, connects to it and returns the caller's side of the job. ctx bounds the start.
	Open(ctx context.Context, job Job) (Worker, error)
	// Serve is the other process: it does its side of the job, tells where it can be reached through ready, and
	// returns when the caller is done.
	Serve(job Job, ready Ready) error
}

// All returns every competitor, in the order of the tables.
func All() []Peer {
	return []Peer{
		c{}, raw{}, raw{batched: true}, raw{shared: true},
		spawnwire{}, spawnwire{borrowed: true}, spawnwire{typed: true}, spawnwire{typed: true, reused: true},
		spawnwire{borrowed: true, batched: true}, spawnwire{typed: true, reused: true, batched: true},
		netRPC{}, grpcUnary{}, grpcStream{}, ttrpcPeer{},
		goPlugin{}, goPlugin{grpc: true},
		mangosPair{}, mangosReqRep{},
	}
}

// Floor is the name of the competitor that all ratios are to: a plain net.Conn, one write for each message.
const Floor = "raw"

// Find returns the competitor of that name.
func Find(name string) (Peer, error) {
	for _, p := range All() {
		if p.Name() == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("there is no peer %q", name)
}

// Work is a kind of work.
type Work string

const (
	// RoundTrip is one message there and the same bytes back, one after the other.
	RoundTrip Work = "round trip"
	// Stream is messages in one direction from one goroutine; the receiver decodes each, and reports at the end.
	Stream Work = "stream"
	// Senders is Stream from Goroutines goroutines over one connection.
	Senders Work = "senders"
)

// Goroutines is how many of them the work Senders has.
const Goroutines = 64

// Job is what a pair of processes is to do.
type Job struct {
	Work    Work   `json:"work"`
	Network string `json:"network"` // "unix" or "tcp", on this machine
	Size    int    `json:"size"`    // of a message's payload, in bytes; at least MinSize
	// Connections is how many there are between the two processes: round trips use them in turn. 0 is one. Only the peers
	// whose growth is measured know of more.
	Connections int `json:"connections,omitempty"`
}

func (j Job) String() string { return fmt.Sprintf("%s %s, %s", j.Work, SizeName(j.Size), j.Network) }

// SizeName writes a size in bytes as "64 B" or "1 MiB".
func SizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// Worker is the caller's side of a job, connected.
type Worker interface {
	// Run does n operations: round trips, or messages of a stream with the receiver's report after them. An answer
	// that is not what was sent is an error.
	Run(n int) (Took, error)
	// Close ends the connection and the other process. It may be called more than once, and while Run runs, which then fails.
	Close() error
}

// Took is what a Run took.
type Took struct {
	Total time.Duration
	Each  []time.Duration // of round trips, each one; the slice is good until the next Run
	// Elsewhere says that the caller's side is another process than this one.
	Elsewhere bool
}

// Patience bounds every wait for a peer that has no end of its own: to find a hang, not to judge a speed.
const Patience = time.Minute
