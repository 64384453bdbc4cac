package forkspawn_test

import (
	"context"
	"encoding/binary"
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
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/transport"
)

// A faulty child is this test binary, told by faultEnv at which point of its start to fail and how. It
// joins as children do, with the real handshake, over a connection that knows what passes. The
// library has no part in it.
const (
	faultEnv = "SPAWNWIRE_TEST_FAULT" // point/fault
	tellEnv  = "SPAWNWIRE_TEST_TELL"  // the number of the case and the FIFO on which the child tells that it is there

	faultTemplateEnv = "SPAWNWIRE_TEST_FAULTY" // set in a template all of whose children are faulty
)

// point is a place in a child's life.
type point string

// The points, in their order.
const (
	atStart      point = "before main" // in a shell that then becomes the child, so that no Go runtime is there yet
	atInit       point = "package init"
	beforeDial   point = "before dial"
	afterDial    point = "after dial"
	midHello     point = "mid hello"     // half of it is written
	afterHello   point = "after hello"   // nothing of the welcome is read
	midWelcome   point = "mid welcome"   // half of it is read
	afterWelcome point = "after welcome" // nothing of the spec is read
	midSpec      point = "mid spec"
	afterSpec    point = "after spec" // it is found good
	midReady     point = "mid ready"
	atReady      point = "ready"      // the moment it is written
	midAttach    point = "mid attach" // of the control connection
	atOpen       point = "open"       // the first message has come
	atStop       point = "stop"       // it has been asked to stop
)

var points = []point{
	atStart, atInit, beforeDial, afterDial, midHello, afterHello, midWelcome, afterWelcome, midSpec,
	afterSpec, midReady, atReady, midAttach, atOpen, atStop,
}

// fault is what goes wrong.
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
	exitThree, exitZero, panics, killed, stalls, stops, deafStalls, closes, garbles, floods, floodsOn,
	leavesOutput, leavesSocket, leavesUnruly,
}

// Faults that have a place of their own.
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

// faulty is the child that fails.
type faulty struct {
	at     point
	do     fault
	number string
	fifo   string
	conn   net.Conn
}

// theFault is initialised before any init function runs; nil in all but faulty children.
var theFault = faultFromEnv()

func faultFromEnv() *faulty {
	at, do, ok := strings.Cut(os.Getenv(faultEnv), "/")
	if !ok {
		return nil
	}
	number, fifo, _ := strings.Cut(os.Getenv(tellEnv), " ")
	return &faulty{at: point(at), do: fault(do), number: number, fifo: fifo}
}

func init() { theFault.reached(atInit) }

// tell notes the moment of the fault, and the process that it leaves behind if there is one.
func (f *faulty) tell(grandchild int) {
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

// reached fails if this is the point. It may return: not every fault is the end.
func (f *faulty) reached(p point) {
	if f == nil || p == "" || f.at != p {
		return
	}
	f.at = ""
	switch f.do {
	case exitThree:
		f.tell(0)
		f.exit()
	case exitZero:
		f.tell(0)
		os.Exit(0)
	case panics:
		f.tell(0)
		panic(lastLine)
	case killed:
		f.tell(0)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case stalls:
		f.awaitParent(p)
		f.tell(0)
	case stops:
		f.awaitParent(p)
		f.tell(0)
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case deafStalls:
		signal.Ignore(syscall.SIGTERM)
		f.awaitParent(p)
		f.tell(0)
	case closes:
		f.tell(0)
		f.conn.Close()
	case garbles:
		f.tell(0)
		f.conn.Write([]byte(strings.Repeat("\xff", 300)))
	case floods:
		f.flood()
		f.tell(0)
		f.exit()
	case floodsOn:
		f.flood()
		fmt.Fprintln(os.Stderr, lastLine)
		f.tell(0)
		return
	case leavesOutput:
		f.tell(f.leave(nil))
		f.exit()
	case leavesSocket:
		socket, err := f.conn.(interface{ File() (*os.File, error) }).File()
		f.check(err)
		f.tell(f.leave(socket))
		f.exit()
	case leavesUnruly:
		pid := f.leaveUnruly()
		f.awaitParent(p)
		f.tell(pid)
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
	chunk := strings.Repeat("x", floodChunk) // with no newline: one line of it all
	for range floodSize / floodChunk {
		io.WriteString(os.Stdout, chunk)
		io.WriteString(os.Stderr, chunk)
	}
	io.WriteString(os.Stderr, "\n")
}

// leave starts a grandchild that holds the child's output, and its socket if there is one.
func (f *faulty) leave(socket *os.File) int {
	cmd := exec.Command("sleep", "300")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if socket != nil {
		cmd.ExtraFiles = []*os.File{socket}
	}
	f.check(cmd.Start())
	return cmd.Process.Pid
}

// leaveUnruly starts a grandchild that ignores SIGTERM, and waits until it does.
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

// awaitParent waits until the parent has taken note of the point, where the kernel lets one see that: the
// parent's phase is then known to the one who ends the boot.
func (f *faulty) awaitParent(p point) {
	switch p {
	case afterDial, midHello:
		if f.conn.RemoteAddr().Network() != "unix" {
			return // and the parent does not know whose connection it is
		}
		if p == afterDial {
			f.conn.Write([]byte{1, 0, 0, 0, byte(transport.KindExtension)}) // that everybody skips
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

// poll looks until what nothing announces has come.
func (f *faulty) poll(there func(fd int) bool) {
	raw, err := f.conn.(syscall.Conn).SyscallConn()
	f.check(err)
	for done := false; !done; time.Sleep(100 * time.Microsecond) {
		f.check(raw.Control(func(fd uintptr) { done = there(int(fd)) }))
	}
}

// run is the child's life. It does not return.
func (f *faulty) run(from forkspawn.Forked, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	f.check(err)
	ticket := from.Ticket
	f.reached(beforeDial)
	if from.Dial == nil {
		from.Dial = func(context.Context) (net.Conn, error) { return net.Dial(ticket.Addr.Network(), ticket.Addr.Target) }
	}
	f.conn, err = from.Dial(ctx)
	f.check(err)
	f.reached(afterDial)
	asked := sync.OnceFunc(func() {
		f.reached(atStop)
		cancel()
	})
	joining := handshake.JoinConfig{Control: from.Control == nil, Ahead: from.Control != nil, OnCancel: func(transport.Cancel) { asked() }}
	switch {
	case f.at != inHello:
	case f.do == wrongMAC, f.do == wrongMACStalls:
		ticket.Secret = handshake.NewSecret()
	case f.do == wrongID, f.do == wrongIDStalls:
		ticket.ID = handshake.NewID()
	case f.do == wrongVersion, f.do == wrongVersionSt:
		joining.Versions = handshake.Range{Min: 7, Max: 9}
	case f.do == wrongKind:
		f.tell(0)
		f.conn.Write([]byte{2, 0, 0, 0, byte(transport.KindMessage), 0})
		stall()
	}
	j, err := handshake.Join(ctx, f.wrap(f.conn), ticket, joining)
	if f.at == inHello {
		f.tell(0)
		if strings.HasSuffix(string(f.do), "stall") {
			stall()
		}
	}
	f.check(err)
	f.reached(afterSpec)
	if f.at == inAnswer {
		said := handshake.FailedError{Phase: handshake.PhaseReady, Code: handshake.CodeError, Text: "port 80 is taken"}
		if f.do == failsSpec {
			said = handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeBadSpec, Text: "half of it"}
		}
		f.tell(0)
		f.check(j.Fail(ctx, said))
		if f.do == failsStalls {
			stall()
		}
		os.Exit(1)
	}
	f.check(j.Ready(ctx, handshake.Timings{}))
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
		stall() // another goroutine did it
	}
	if ctx.Err() == nil {
		f.check(err)
	}
	j.Channel.CloseWith(context.Background(), 0, "")
	os.Exit(0)
}

// attach opens the control connection and calls asked when the child is asked to stop there.
func (f *faulty) attach(ctx context.Context, j *handshake.Joined, from forkspawn.Forked, asked func()) {
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
		if frame, err := control.ReadFrame(ctx); err == nil && frame.Kind == transport.KindCancel {
			asked()
		}
	}()
}

// headerSize is that of a frame: its length and kind.
const headerSize = 5

// faultConn is a child's connection that knows the frames that pass.
type faultConn struct {
	net.Conn
	f      *faulty
	header []byte // of the frame that is being read
	stage  stage  // of that frame
	left   int    // bytes until the stage's end
}

type stage int

const (
	inHead stage = iota
	inFirstHalf
	inSecondHalf
)

func (f *faulty) wrap(conn net.Conn) *faultConn {
	return &faultConn{Conn: conn, f: f, left: headerSize}
}

// Write is called with one whole frame, as a channel does for what is small.
func (c *faultConn) Write(p []byte) (int, error) {
	var mid, after point
	switch transport.Kind(p[headerSize-1]) {
	case transport.KindHello:
		mid, after = midHello, afterHello
	case transport.KindReady:
		mid, after = midReady, atReady
	case transport.KindAttach:
		mid = midAttach
	}
	half := 0
	if mid != "" && c.f.at == mid {
		half = len(p) / 2
		if n, err := c.Conn.Write(p[:half]); err != nil {
			return n, err
		}
		c.f.reached(mid)
	}
	n, err := c.Conn.Write(p[half:])
	if err == nil {
		c.f.reached(after)
	}
	return half + n, err
}

// Read returns no more than what lies before the next place that matters: a header's end, half of a
// body, its end.
func (c *faultConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	if c.stage == inHead {
		c.header = append(c.header, p[:n]...)
	}
	for c.left -= n; c.left == 0; {
		c.next()
	}
	return n, err
}

func (c *faultConn) next() {
	body := int(binary.LittleEndian.Uint32(c.header)) - 1
	kind := transport.Kind(c.header[headerSize-1])
	switch c.stage {
	case inHead:
		c.stage, c.left = inFirstHalf, body/2
	case inFirstHalf:
		c.stage, c.left = inSecondHalf, body-body/2
		switch kind {
		case transport.KindWelcome:
			c.f.reached(midWelcome)
		case transport.KindSpec:
			c.f.reached(midSpec)
		}
	case inSecondHalf:
		c.header, c.stage, c.left = c.header[:0], inHead, headerSize
		if kind == transport.KindWelcome {
			c.f.reached(afterWelcome)
		}
	}
}

// shellFault is the way to fail before there is a Go program: a shell that becomes one, if it comes to that.
func shellFault(do fault) string {
	const tell = `tell() { echo "${` + tellEnv + `%% *} 0 $1" >"${` + tellEnv + `#* }"; }; last() { echo "` + lastLine + `" >&2; }; `
	const flood = `head -c 10485760 /dev/zero; head -c 10485760 /dev/zero | tr "\0" x >&2; echo >&2; `
	script := map[fault]string{
		exitThree:    `tell 0; last; exit 3`,
		exitZero:     `tell 0; exit 0`,
		killed:       `tell 0; kill -KILL $$`,
		stalls:       `tell 0; exec sleep 300`,
		stops:        `tell 0; kill -STOP $$; exec sleep 300`,
		deafStalls:   `trap "" TERM; tell 0; exec sleep 300`,
		floods:       flood + `tell 0; last; exit 3`,
		floodsOn:     flood + `last; tell 0; exec "$0"`,
		leavesOutput: `sleep 300 & tell $!; last; exit 3`,
		leavesUnruly: `trap "" TERM; sleep 300 & trap - TERM; tell $!; exec sleep 300`,
	}[do]
	if script == "" {
		return ""
	}
	return tell + script
}

// playFault makes this process the child that fails, if it was started as one, or the template of such children.
func playFault() {
	if theFault != nil {
		ticket, _, err := handshake.TakeTicket()
		theFault.run(forkspawn.Forked{Ticket: ticket}, err)
	}
	if os.Getenv(faultTemplateEnv) == "" {
		return
	}
	if child, forked, err := forkspawn.ServeAsTemplate(); forked {
		if theFault = faultFromEnv(); theFault == nil { // the template has failed
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		theFault.reached(atInit)
		theFault.run(child, err)
	}
}
