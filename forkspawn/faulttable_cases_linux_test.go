package forkspawn_test

import (
	"fmt"
	"os"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// faultCase is one line of the table.
type faultCase struct {
	point  point
	fault  fault
	net    string // "uds" or "tcp"
	timeUp bool   // the boot times out, instead of a cancel by the caller
}

func (c faultCase) String() string {
	s := fmt.Sprintf("%s/%s/%s", c.point, c.fault, c.net)
	if c.timeUp {
		s += "/boot timeout"
	}
	return s
}

// program reports whether the child is a program that does not speak the protocol.
func (c faultCase) program() bool { return c.point == programStarts || c.point == programRuns }

// wire returns the kind of the child's connection. A forked child inherits one end
// of a socket pair, and does not dial a Unix socket.
func (c faultCase) wire() string {
	if c.net == "uds" && c.point != atStart &&
		forkspawn.Method(os.Getenv(testkit.MethodEnv)) == forkspawn.MethodForkserver {
		return "pair"
	}
	return c.net
}

// outcome is the expected result of a case.
type outcome struct {
	ready ready           // whether Spawn returns a child
	phase handshake.Phase // of the BootError
	// The BootError wraps is, and as if it is not nil. If there is a child, the
	// error of its next Recv does.
	is error
	as any
	// the parent sees no end of the boot, so the caller or the timeout ends it
	cancelled bool
	status    forkspawn.ExitStatus // known if the child ends by itself
	stderr    string               // the last bytes
	text      string               // part of the error's text
	stop      forkspawn.StopResult // if there is a child and it lives
}

type ready int

const (
	never ready = iota
	always
	either // death and ready race
)

// faultOutcomes has the outcome of each fault, without the influence of the
// point.
var faultOutcomes = map[fault]outcome{
	exitThree: {is: forkspawn.ErrDied, status: forkspawn.ExitedStatus(3),
		stderr: lastLine + "\n", text: lastLine},
	exitZero: {is: forkspawn.ErrDied, status: forkspawn.ExitedStatus(0)},
	panics: {is: forkspawn.ErrDied, status: forkspawn.ExitedStatus(2),
		text: "panic: " + lastLine},
	killed:     {is: forkspawn.ErrDied, status: forkspawn.KilledStatus(syscall.SIGKILL, false)},
	stalls:     {cancelled: true, stop: onTerm},
	stops:      {cancelled: true, stop: onTerm}, // with SIGCONT
	deafStalls: {cancelled: true, stop: onKill},
	closes:     {is: transport.ErrPeerGone, stop: onTerm},
	garbles:    {is: transport.ErrProtocol, stop: onTerm},
	floods: {is: forkspawn.ErrDied, status: forkspawn.ExitedStatus(3),
		stderr: "xx\n" + lastLine + "\n", text: lastLine},
	floodsOn: {ready: always, stderr: "xx\n" + lastLine + "\n", stop: onRequest},
	leavesOutput: {is: forkspawn.ErrDied, status: forkspawn.ExitedStatus(3),
		stderr: lastLine + "\n", text: lastLine},
	leavesSocket: {is: forkspawn.ErrDied, status: forkspawn.ExitedStatus(3),
		stderr: lastLine + "\n", text: lastLine},
	leavesUnruly: {cancelled: true, stop: onTerm},

	wrongMAC: {phase: "auth", is: handshake.ErrBadMAC,
		status: forkspawn.ExitedStatus(1), text: "secret"},
	wrongMACStalls: {phase: "auth", is: handshake.ErrBadMAC},
	wrongID: {phase: "auth", is: handshake.ErrUnknownPeer,
		status: forkspawn.ExitedStatus(1)},
	wrongIDStalls: {phase: "auth", is: handshake.ErrUnknownPeer},
	wrongVersion: {phase: "auth", as: new(*handshake.VersionError),
		status: forkspawn.ExitedStatus(1), text: "1 to 1, the peer 7 to 9"},
	wrongVersionSt: {phase: "auth", as: new(*handshake.VersionError),
		text: "1 to 1, the peer 7 to 9"},
	wrongKind: {phase: "hello", is: transport.ErrProtocol},
	failsSpec: {phase: "spec", is: handshake.ErrBadSpec, as: new(*handshake.FailedError),
		status: forkspawn.ExitedStatus(1), text: "half of it"},
	failsReady: {phase: "ready", as: new(*handshake.FailedError),
		status: forkspawn.ExitedStatus(1), text: "port 80 is taken"},
	failsStalls: {phase: "ready", as: new(*handshake.FailedError), text: "port 80 is taken"},
}

// The results of Stop.
var (
	onRequest = forkspawn.StopResult{By: forkspawn.Asked, Status: forkspawn.ExitedStatus(0)}
	onTerm    = forkspawn.StopResult{By: forkspawn.Terminated,
		Status: forkspawn.KilledStatus(syscall.SIGTERM, false)}
	onKill = forkspawn.StopResult{By: forkspawn.Killed,
		Status: forkspawn.KilledStatus(syscall.SIGKILL, false)}
)

// phases has the phase that fails, by wire and point. Over TCP the parent knows
// which child has connected after a valid hello. On a Unix socket it knows before,
// from the kernel.
var phases = map[string]map[point]handshake.Phase{
	"uds": {
		atStart: "connect", atInit: "connect", beforeDial: "connect",
		afterDial: "hello", midHello: "hello",
		afterHello: "spec", midWelcome: "spec", afterWelcome: "spec", midSpec: "spec",
		afterSpec: "spec", midReady: "spec",
	},
	"pair": {
		atInit: "connect", beforeDial: "connect", afterDial: "connect", midHello: "connect",
		afterHello: "spec", midWelcome: "spec", afterWelcome: "spec", midSpec: "spec",
		afterSpec: "spec", midReady: "spec",
	},
	"tcp": {
		atStart: "connect", atInit: "connect", beforeDial: "connect",
		afterDial: "connect", midHello: "connect",
		afterHello: "spec", midWelcome: "spec", afterWelcome: "spec", midSpec: "spec",
		afterSpec: "spec", midReady: "spec",
	},
}

// expected returns the outcome of a case.
func expected(c faultCase) outcome {
	o := faultOutcomes[c.fault]
	if o.phase == "" {
		o.phase = phases[c.wire()][c.point]
	}
	if c.program() {
		return ofProgram(c, o)
	}
	anonymous := c.net == "tcp" &&
		(c.point == afterDial || c.point == midHello || c.point == inHello)
	switch c.point {
	case atReady, midAttach, atOpen:
		o.ready = always
		if o.status.Known() && c.point != atOpen {
			o.ready = either
			o.phase = "spec"
		}
		if c.point == midAttach && !o.status.Known() {
			o.is = nil // the control connection fails, and not the channel
		}
	case atStop:
		o.ready, o.is = always, nil
		if o.status.Known() {
			o.stop = forkspawn.StopResult{By: forkspawn.Asked, Status: o.status}
			o.status = forkspawn.ExitStatus{}
		}
	}
	if c.wire() == "pair" && c.fault == garbles && (c.point == afterDial || c.point == midHello) {
		o.phase = "hello" // the garbage counts as a hello
	}
	switch {
	case anonymous &&
		(c.fault == closes || c.fault == garbles || c.fault == wrongKind ||
			c.fault == wrongIDStalls):
		// Any process could have sent this, so the parent goes on waiting.
		o.is, o.phase, o.cancelled = nil, "connect", true
	case anonymous && c.fault == wrongID:
		o.is, o.phase = forkspawn.ErrDied, "connect"
	case anonymous && c.fault == wrongMACStalls:
		o.cancelled = true // as above, but the parent keeps the error, because of the id
	}
	return o
}

// ofProgram changes an outcome to that of a program. It has no connection, so only its end
// and its output tell about it, and SIGTERM asks it to stop.
func ofProgram(c faultCase, o outcome) outcome {
	o.phase = handshake.PhaseReady
	if c.point == programRuns {
		o.ready, o.cancelled = always, false
		if o.status.Known() {
			o.ready = either
		}
	}
	if o.stop.By == forkspawn.Asked {
		o.stop = onTerm
	}
	return o
}

// faultCases returns every possible combination of point, fault and transport.
func faultCases() (list []faultCase) {
	for _, network := range []string{"uds", "tcp"} {
		for _, p := range points {
			for _, f := range faults {
				noSocket := p == atStart || p == atInit || p == beforeDial
				if noSocket && (f == closes || f == garbles || f == leavesSocket) ||
					p == atStart && shellFault(f) == "" {
					continue
				}
				c := faultCase{point: p, fault: f, net: network}
				if c.wire() == "pair" && p == midAttach {
					continue
				}
				list = append(list, c)
			}
		}
		for _, f := range []fault{wrongMAC, wrongMACStalls, wrongID, wrongIDStalls, wrongVersion,
			wrongVersionSt, wrongKind} {
			list = append(list, faultCase{point: inHello, fault: f, net: network})
		}
		for _, f := range []fault{failsSpec, failsReady, failsStalls} {
			list = append(list, faultCase{point: inAnswer, fault: f, net: network})
		}
		for _, p := range []point{atInit, afterDial, afterHello, midReady} {
			list = append(list, faultCase{point: p, fault: stalls, net: network, timeUp: true})
		}
	}
	for _, f := range faults {
		if shellFault(f) == "" {
			continue
		}
		if f != floodsOn { // which becomes ready in the end
			list = append(list, faultCase{point: programStarts, fault: f, net: "uds"})
		}
		list = append(list, faultCase{point: programRuns, fault: f, net: "uds"})
	}
	return append(list,
		faultCase{point: programStarts, fault: stalls, net: "uds", timeUp: true})
}
