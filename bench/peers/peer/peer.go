// Package peer has the competitors behind one interface: this library, the floors,
// and other libraries, each in a file of its own. To add one, write such a file
// and add it to All.
package peer

import (
	"context"
	"fmt"
	"time"
)

// Peer is one competitor: a library in one way of using it. It is one row of the
// tables.
type Peer interface {
	// Name returns the name of the row.
	Name() string
	// Module returns the module whose version is printed, or "" if the competitor
	// is part of Go or the system.
	Module() string
	// Does reports whether the competitor can do the job.
	Does(Job) bool
	// Open starts the other process, connects to it and returns the caller's side.
	// ctx bounds the start.
	Open(ctx context.Context, job Job) (Worker, error)
	// Serve runs in the other process. It announces its address through ready and
	// returns when the caller is done.
	Serve(job Job, ready Ready) error
}

// All returns all competitors in the order of the tables.
func All() []Peer {
	return []Peer{
		c{}, c{ring: true}, raw{}, raw{batched: true}, raw{shared: true},
		spawnwire{}, spawnwire{borrowed: true}, spawnwire{typed: true},
		spawnwire{typed: true, reused: true}, spawnwire{ring: true},
		spawnwire{typed: true, reused: true, ring: true},
		spawnwire{borrowed: true, batched: true},
		spawnwire{typed: true, reused: true, batched: true}, spawnwireCall{},
		netRPC{}, grpcUnary{}, grpcStream{}, ttrpcPeer{}, drpcPeer{}, connectPeer{},
		goPlugin{}, goPlugin{grpc: true},
		mangosPair{}, mangosReqRep{}, shmipcPeer{},
	}
}

// Floor is the name of the competitor that all ratios refer to: a plain net.Conn
// with one write for each message.
const Floor = "raw"

// Find returns the competitor with this name.
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
	// RoundTrip is a message to the other process and the same bytes back.
	RoundTrip Work = "round trip"
	// Stream is messages in one direction from one goroutine. The receiver decodes
	// each and sends a report at the end.
	Stream Work = "stream"
	// Senders is Stream from many goroutines over one connection.
	Senders Work = "senders"
)

// Goroutines is the number of goroutines of Senders.
const Goroutines = 64

// Job is the task of a pair of processes.
type Job struct {
	Work    Work   `json:"work"`
	Network string `json:"network"` // "unix" or "tcp", on this machine
	Size    int    `json:"size"`    // of a payload in bytes; at least MinSize
	// Connections is the number of connections between the two processes. Round
	// trips use them in turn. Zero means one. Only the peers of package growth
	// support more.
	Connections int `json:"connections,omitempty"`
	// Large is the size of the large messages of Beside, in bytes.
	Large int `json:"large,omitempty"`
	// Alone has the work done without its disturbance; see Job.HasAlone.
	Alone bool `json:"alone,omitempty"`
}

func (j Job) String() string {
	return fmt.Sprintf("%s %s, %s", j.Work, SizeName(j.Size), j.Network)
}

// SizeName formats a size in bytes, such as "64 B" or "1 MiB".
func SizeName(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// Worker is the connected caller's side of a job.
type Worker interface {
	// Run does n operations: round trips, or messages of a stream and then the
	// receiver's report. A wrong answer is an error.
	Run(n int) (Took, error)
	// Close ends the connection and the other process. It may be called more than
	// once, and during Run, which then returns an error.
	Close() error
}

// AllocCounter is a Worker that counts the allocations of the other process.
type AllocCounter interface {
	// OtherAllocs returns the number since the start of the process. It returns
	// ErrNoAllocs if it is unknown.
	OtherAllocs() (uint64, error)
}

// Took is the time of a Run.
type Took struct {
	Total time.Duration
	Each  []time.Duration // of each round trip; valid until the next Run
	// Elsewhere reports whether the caller's side is in another process.
	Elsewhere bool
}

// Patience bounds waits for a peer. It only has to find hangs.
const Patience = time.Minute
