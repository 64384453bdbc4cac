package handshake

import "slices"

// Phase is a step in the start of a child. The phase of an error is the step that did not complete.
type Phase string

// The phases, in their order.
const (
	PhaseStart   Phase = "start"   // the process is being started
	PhaseConnect Phase = "connect" // it runs and has not been seen to connect
	PhaseHello   Phase = "hello"   // it has connected and has not said hello (seen where the kernel tells a connection's process)
	PhaseAuth    Phase = "auth"    // its hello is being checked: the secret, the version
	PhaseSpec    Phase = "spec"    // it is who it should be, has been sent its orders and has not answered
	PhaseReady   Phase = "ready"   // it took its orders and prepares, or is ready
)

var phases = []Phase{PhaseStart, PhaseConnect, PhaseHello, PhaseAuth, PhaseSpec, PhaseReady}

// beyond tells whether p comes after q.
func (p Phase) beyond(q Phase) bool { return slices.Index(phases, p) > slices.Index(phases, q) }
