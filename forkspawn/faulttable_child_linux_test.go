package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/transport"
)

// A faulty child is the test binary. The variable in faultEnv names the point of
// its start and the fault. The child joins with the real handshake, over a
// connection that parses the frames. Package forkspawn is not involved.
const (
	faultEnv = "SPAWNWIRE_TEST_FAULT" // point/fault
	// the case's number, and a FIFO for the report that the child is at its point
	reportEnv = "SPAWNWIRE_TEST_REPORT"

	faultTemplateEnv = "SPAWNWIRE_TEST_FAULTY" // set in a template with faulty children
)

// point is a place in a child's life.
type point string

// The points, in their order.
const (
	atStart      point = "before main" // in a shell, before it executes the child
	atInit       point = "package init"
	beforeDial   point = "before dial"
	afterDial    point = "after dial"
	midHello     point = "mid hello"     // half of it has been written
	afterHello   point = "after hello"   // before the welcome is read
	midWelcome   point = "mid welcome"   // half of it has been read
	afterWelcome point = "after welcome" // before the spec is read
	midSpec      point = "mid spec"
	afterSpec    point = "after spec" // after it was found valid
	midReady     point = "mid ready"
	atReady      point = "ready"      // right after it was written
	midAttach    point = "mid attach" // of the control connection
	atOpen       point = "open"       // after the first message
	atStop       point = "stop"       // after the request to stop
)

var points = []point{
	atStart, atInit, beforeDial, afterDial, midHello, afterHello, midWelcome, afterWelcome, midSpec,
	afterSpec, midReady, atReady, midAttach, atOpen, atStop,
}

// The points of a program that does not speak the protocol. It is a shell.
const (
	programStarts point = "program starts"   // before it writes readyLine
	programRuns   point = "program is ready" // after it
)

const readyLine = "the program is ready"

// fault is a way to fail.
type fault string

const (
	exitThree    fault = "exit 3"
	exitZero     fault = "exit 0"
	panics       fault = "panic"
	killed       fault = "SIGKILL"
	stalls       fault = "stall"
	stops        fault = "SIGSTOP"
	deafStalls   fault = "ignore SIGTERM, stall"
	closes       fault = "close, stall"
	garbles      fault = "garbage, stall"
	floods       fault = "flood, exit 3"
	floodsOn     fault = "flood, go on"
	leavesOutput fault = "grandchild has output, exit 3"
	leavesSocket fault = "grandchild has socket, exit 3"
	leavesUnruly fault = "grandchild ignores SIGTERM, stall"
)

var faults = []fault{
	exitThree, exitZero, panics, killed, stalls, stops, deafStalls, closes, garbles, floods,
	floodsOn,
	leavesOutput, leavesSocket, leavesUnruly,
}

// Points and faults that are only possible together.
const (
	inHello  point = "in hello"
	inAnswer point = "in answer"

	wrongMAC       fault = "wrong MAC"
	wrongMACStalls fault = "wrong MAC, stall"
	wrongID        fault = "unknown id"
	wrongIDStalls  fault = "unknown id, stall"
	wrongVersion   fault = "wrong version"
	wrongVersionSt fault = "wrong version, stall"
	wrongKind      fault = "a message for hello, stall"
	failsSpec      fault = "failed in spec"
	failsReady     fault = "failed in ready"
	failsStalls    fault = "failed in ready, stall"
)

const (
	lastLine   = "the last line of all"
	floodSize  = 10 << 20
	floodChunk = 64 << 10
)

// faulty is the state of a faulty child.
type faulty struct {
	at     point
	do     fault
	number string
	fifo   string
	conn   net.Conn
}

// theFault is nil except in a faulty child. It is initialised before any init
// function runs.
var theFault = faultFromEnv()

func faultFromEnv() *faulty {
	at, do, ok := strings.Cut(os.Getenv(faultEnv), "/")
	if !ok {
		return nil
	}
	number, fifo, _ := strings.Cut(os.Getenv(reportEnv), " ")
	return &faulty{at: point(at), do: fault(do), number: number, fifo: fifo}
}

func init() { theFault.reached(atInit) }

// report sends the time of the fault, and the pid of the grandchild if there is
// one.
func (f *faulty) report(grandchild int) {
	fd, err := syscall.Open(f.fifo, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	f.check(err)
	_, err = syscall.Write(fd, fmt.Appendf(nil, "%s %d %d\n", f.number, monotime.Now(), grandchild))
	f.check(err)
	syscall.Close(fd)
}

func (f *faulty) check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// reached fails if p is the child's point. It returns if the child is to go on.
func (f *faulty) reached(p point) {
	if f == nil || p == "" || f.at != p {
		return
	}
	f.at = ""
	switch f.do {
	case exitThree:
		f.report(0)
		f.exit()
	case exitZero:
		f.report(0)
		os.Exit(0)
	case panics:
		f.report(0)
		panic(lastLine)
	case killed:
		f.report(0)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case stalls:
		f.awaitParent(p)
		f.report(0)
	case stops:
		f.awaitParent(p)
		f.report(0)
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case deafStalls:
		signal.Ignore(syscall.SIGTERM)
		f.awaitParent(p)
		f.report(0)
	case closes:
		f.report(0)
		f.conn.Close()
	case garbles:
		f.report(0)
		f.conn.Write([]byte(strings.Repeat("\xff", 300)))
	case floods:
		f.flood()
		f.report(0)
		f.exit()
	case floodsOn:
		f.flood()
		fmt.Fprintln(os.Stderr, lastLine)
		f.report(0)
		return
	case leavesOutput:
		f.report(f.leave(nil))
		f.exit()
	case leavesSocket:
		socket, err := f.conn.(interface{ File() (*os.File, error) }).File()
		f.check(err)
		pid := f.leave(socket)
		f.awaitParent(p) // the connection stays open, so the parent cannot notice its end
		f.report(pid)
		f.exit()
	case leavesUnruly:
		pid := f.leaveUnruly()
		f.awaitParent(p)
		f.report(pid)
	default:
		f.check(errors.New("no such fault: " + string(f.do)))
	}
	stall()
}

func stall() {
	for {
		time.Sleep(time.Hour)
	}
}

func (f *faulty) exit() {
	fmt.Fprintln(os.Stderr, lastLine)
	os.Exit(3)
}

func (f *faulty) flood() {
	chunk := strings.Repeat("x", floodChunk) // without a newline, so that all is one line
	for range floodSize / floodChunk {
		io.WriteString(os.Stdout, chunk)
		io.WriteString(os.Stderr, chunk)
	}
	io.WriteString(os.Stderr, "\n")
}

// leave starts a grandchild with the child's output, and with its socket if there
// is one.
func (f *faulty) leave(socket *os.File) int {
	cmd := exec.Command("sleep", "300")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if socket != nil {
		cmd.ExtraFiles = []*os.File{socket}
	}
	f.check(cmd.Start())
	return cmd.Process.Pid
}

// leaveUnruly starts a grandchild, and waits until it ignores SIGTERM.
func (f *faulty) leaveUnruly() int {
	r, w, err := os.Pipe()
	f.check(err)
	cmd := exec.Command("sh", "-c", `trap "" TERM; echo >&3; exec sleep 300 3>&-`)
	cmd.ExtraFiles = []*os.File{w}
	f.check(cmd.Start())
	_, err = r.Read(make([]byte, 1))
	f.check(err)
	return cmd.Process.Pid
}

// awaitParent waits until the parent has processed everything before the point, so
// that the phase in the BootError is certain. It does so where the kernel can
// show it.
func (f *faulty) awaitParent(p point) {
	switch p {
	case afterDial, midHello:
		if f.conn.RemoteAddr().Network() != "unix" {
			return // the parent does not know which child has connected
		}
		if p == afterDial {
			// a frame that the parent skips
			f.conn.Write([]byte{1, 0, 0, 0, byte(frame.KindExtension)})
		}
		f.poll(func(fd int) bool {
			unread, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
			return err == nil && unread == 0
		})
	case afterHello:
		f.poll(func(fd int) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return err == nil && n == 1 // the parent's answer
		})
	}
}

// poll calls there until it returns true.
func (f *faulty) poll(there func(fd int) bool) {
	raw, err := f.conn.(syscall.Conn).SyscallConn()
	f.check(err)
	for done := false; !done; time.Sleep(100 * time.Microsecond) {
		f.check(raw.Control(func(fd uintptr) { done = there(int(fd)) }))
	}
}

// withSecret returns a ticket with another secret, in hexadecimal.
func withSecret(t handshake.Ticket, secret string) (handshake.Ticket, error) {
	fields := strings.SplitN(t.Encode(), " ", 4)
	fields[2] = secret
	return handshake.ParseTicket(strings.Join(fields, " "))
}

// run runs the child. It does not return.
func (f *faulty) run(from forkspawn.Forked, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	f.check(err)
	ticket := from.Ticket
	f.reached(beforeDial)
	if from.Dial == nil {
		from.Dial = func(context.Context) (net.Conn,
			error) {
			return net.Dial(ticket.Addr.Network(), ticket.Addr.Target)
		}
	}
	f.conn, err = from.Dial(ctx)
	f.check(err)
	f.reached(afterDial)
	asked := sync.OnceFunc(func() {
		f.reached(atStop)
		cancel()
	})
	joining := handshake.JoinConfig{Control: from.Control == nil,
		OnCancel: func(handshake.Cancel) { asked() }}
	switch {
	case f.at != inHello:
	case f.do == wrongMAC, f.do == wrongMACStalls:
		ticket, err = withSecret(ticket, strings.Repeat("5e", 32))
		f.check(err)
	case f.do == wrongID, f.do == wrongIDStalls:
		ticket.ID = handshake.NewID()
	case f.do == wrongVersion, f.do == wrongVersionSt:
		joining.Internal.Versions = [2]uint{7, 9}
	case f.do == wrongKind:
		f.report(0)
		f.conn.Write([]byte{2, 0, 0, 0, byte(frame.KindMessage), 0})
		stall()
	}
	j, err := handshake.Join(ctx, f.wrap(f.conn), ticket, joining)
	if f.at == inHello {
		f.report(0)
		if strings.HasSuffix(string(f.do), "stall") {
			stall()
		}
	}
	f.check(err)
	f.reached(afterSpec)
	if f.at == inAnswer {
		phase, reason := handshake.PhaseReady, errors.New("port 80 is taken")
		if f.do == failsSpec {
			phase, reason = handshake.PhaseSpec, errors.New("half of it")
		}
		f.report(0)
		f.check(j.Fail(ctx, phase, reason))
		if f.do == failsStalls {
			stall()
		}
		os.Exit(1)
	}
	f.check(j.Ready(ctx, nil))
	f.attach(ctx, j, from, asked)
	for {
		var v any
		if err = j.Channel.Recv(ctx, &v); err != nil {
			break
		}
		f.reached(atOpen)
		if err = j.Channel.Send(ctx, v); err != nil {
			break
		}
	}
	if f.do == closes {
		stall() // another goroutine has closed the connection
	}
	if ctx.Err() == nil {
		f.check(err)
	}
	j.Channel.CloseWith(context.Background(), 0, "")
	os.Exit(0)
}

// attach opens the control connection, and calls asked when a request to stop
// arrives there.
func (f *faulty) attach(ctx context.Context, j *handshake.Joined, from forkspawn.Forked,
	asked func()) {
	var control *transport.Channel
	if from.Control != nil {
		conn, err := from.Control()
		f.check(err)
		control = transport.New(conn, transport.Config{})
	} else {
		conn, err := net.Dial(from.Ticket.Addr.Network(), from.Ticket.Addr.Target)
		f.check(err)
		if f.at == midAttach {
			f.conn = conn
		}
		control, err = j.AttachControl(ctx, f.wrap(conn))
		f.check(err)
	}
	go func() {
		if f, err := control.Frames(access.Key{}).Read(ctx); err == nil &&
			f.Kind == frame.KindCancel {
			asked()
		}
	}()
}

// shellFault returns a shell script that fails before there is a Go program, or "".
// If it survives the fault it executes its $0 with its arguments.
func shellFault(do fault) string {
	const reporting = `report() { echo "${` + reportEnv + `%% *} 0 $1" >"${` + reportEnv +
		`#* }"; }; last() { echo "` + lastLine + `" >&2; }; `
	const flood = `head -c 10485760 /dev/zero; head -c 10485760 /dev/zero | tr "\0" x >&2; echo >&2; `
	script := map[fault]string{
		exitThree:    `report 0; last; exit 3`,
		exitZero:     `report 0; exit 0`,
		killed:       `report 0; kill -KILL $$`,
		stalls:       `report 0; exec sleep 300`,
		stops:        `report 0; kill -STOP $$; exec sleep 300`,
		deafStalls:   `trap "" TERM; report 0; exec sleep 300`,
		floods:       flood + `report 0; last; exit 3`,
		floodsOn:     flood + `last; report 0; exec "$0" "$@"`,
		leavesOutput: `sleep 300 & report $!; last; exit 3`,
		leavesUnruly: `trap "" TERM; sleep 300 & trap - TERM; report $!; exec sleep 300`,
	}[do]
	if script == "" {
		return ""
	}
	return reporting + script
}

// playFault runs the faulty child, or the template of faulty children, if this
// process was started as one.
func playFault() {
	if theFault != nil {
		ticket, _, err := handshake.TakeTicket()
		theFault.run(forkspawn.Forked{Ticket: ticket}, err)
	}
	if os.Getenv(faultTemplateEnv) == "" {
		return
	}
	if child, forked, err := forkspawn.ServeAsTemplate(); forked {
		if theFault = faultFromEnv(); theFault == nil { // this is the template, which has failed
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		theFault.reached(atInit)
		theFault.run(child, err)
	}
}
