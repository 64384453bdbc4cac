package forkspawn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/refork/selftest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
)

// The template's own side. Its stdin is the socket of its Spawner.

// What a template and its children write to between two forks costs both of them a fault a page, of two microseconds or so, and
// is most of what a start takes. So the one that waits for requests has its memory beforehand, and looks at as
// little of a request as it can.

// templateProcess is this process as a template.
type templateProcess struct {
	conn    *net.UnixConn // to the Spawner
	raw     syscall.RawConn
	spawner int // the process that it belongs to
	forker  *refork.Forker
	environ []string // its environment, and so that of a child that is asked for with the same
	restore func()   // makes GOMAXPROCS what it was before it was lowered to 1

	room    []byte // for requests
	request []byte // the one under way; it has a secret, and an environment, which are the child's alone
	nFiles  int    // that came with it
	files   [connectedFiles]int
	moves   [connectedFiles]refork.File
	header  unix.Msghdr
	iov     unix.Iovec
	oob     [unix.SizeofCmsghdr + 4*connectedFiles]byte // for descriptors, and no more of them than files has room for
	got     int                                         // bytes that recvmsg received, which receive has not seen
	errno   syscall.Errno
	report  refork.Report
	armed   armed
}

// firstRoom is what a template has for a request, in bytes. It grows for a larger one.
const firstRoom = 16 << 10

// aloneBound is how long a child does without its other threads until its parent knows that it is ready.
const aloneBound = 5 * time.Millisecond

// holdTime is how long a template that is not armed is still when it has forked a child, unless it is asked for another: about what
// the child needs to be ready.
const holdTime = 2 * time.Millisecond

// serveAsTemplate makes this process a template, with a warm-up, and returns in each child that it forks, with the ticket
// and how it joins. It does not return in the template, which ends with its Spawner.
func serveAsTemplate(warmUp string) (ticket handshake.Ticket, how joining, err error) {
	t := &templateProcess{spawner: os.Getppid(), room: make([]byte, firstRoom)}
	if err = t.takeStdin(); err != nil {
		return ticket, how, fmt.Errorf("forkspawn: template: %w", err)
	}
	if news := t.prepare(warmUp); news.kind != newsReady {
		t.tell(news, -1)
		os.Exit(ExitFailure)
	}
	nameProcess()
	forked := templateNews{kind: newsForked}
	t.report = refork.Report{Message: forked.encode(), PID: pidAt, Hold: holdTime}
	t.raw.Control(func(fd uintptr) { t.report.Socket = int(fd) })
	t.prepareArmed()
	t.tell(templateNews{kind: newsReady}, -1)
	for {
		pid, pidfd, err := t.forkArmed()
		if err == refork.ErrDisarmed {
			pid, pidfd, err = t.forkAsked()
		}
		switch {
		case err == errNoRequest:
		case err == nil && pid == 0:
			return t.becomeChild()
		default:
			t.answer(pid, pidfd, err)
		}
	}
}

// forkAsked waits for a request, or for the rest of one, and forks this process. The child's goroutine is locked to its first thread.
func (t *templateProcess) forkAsked() (pid, pidfd int, err error) {
	request, _, err := t.receive()
	switch {
	case err == errNoRequest:
		return 0, -1, err
	case err == io.EOF:
		os.Exit(0) // the Spawner is closed, or its process has ended
	case err != nil:
		fmt.Fprintln(os.Stderr, "forkspawn: template:", err)
		os.Exit(ExitFailure)
	case t.nFiles != request.files():
		return 0, -1, &refork.Refused{Reason: "descriptors of the child", Err: syscall.EMFILE}
	}
	moves := t.moves[:t.nFiles]
	for i, fd := range t.files[:t.nFiles] {
		moves[i] = refork.File{From: fd, To: fd}
		if i < 3 {
			moves[i].To = i
		}
	}
	return t.fork(refork.Options{Files: moves})
}

// fork forks this process. The goroutine is locked to its thread in the child, whose first that is.
func (t *templateProcess) fork(o refork.Options) (pid, pidfd int, err error) {
	o.Sibling, o.Pidfd, o.Alone, o.Report = true, true, aloneBound, &t.report
	runtime.LockOSThread()
	pid, pidfd, err = t.forker.Fork(o)
	if err != nil || pid != 0 {
		runtime.UnlockOSThread()
	}
	return pid, pidfd, err
}

// selfTestBound is there to find hangs: the test takes half a second.
const selfTestBound = time.Minute

// takeStdin makes a connection of the socket that stdin is. Stdin is the null device then.
func (t *templateProcess) takeStdin() error {
	conn, err := net.FileConn(os.Stdin) // with a descriptor of its own
	if err != nil {
		return explainScarcity(err)
	}
	t.conn = conn.(*net.UnixConn)
	if t.raw, err = t.conn.SyscallConn(); err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return noNullDevice(&os.PathError{Op: "open", Path: os.DevNull, Err: err})
	}
	defer unix.Close(null)
	return os.NewSyscallError("dup3", unix.Dup3(null, 0, 0))
}

// prepare finds out whether this process can be forked, has it warm up, and makes forks cheap.
func (t *templateProcess) prepare(name string) templateNews {
	procs := runtime.GOMAXPROCS(0)
	warmUp, err := warmUpOf(name)
	if err != nil {
		return templateNews{kind: newsFailed, reason: err.Error()}
	}
	if t.forker, err = refork.Prepare(); err == nil {
		ctx, cancel := context.WithTimeoutCause(context.Background(), selfTestBound, errors.New("it hangs"))
		err = selftest.Run(ctx, t.forker) // while the heap is small
		cancel()
	}
	if err != nil {
		if n := refusal(newsFailed, err); n.resource != "" {
			return n // it may be there the next time
		}
		return refusal(newsRefused, err)
	}
	forget := rememberSignals()
	if err := t.runWarmUp(warmUp); err != nil {
		return templateNews{kind: newsFailed, reason: "warm-up: " + err.Error()}
	}
	t.environ = os.Environ()
	forget() // what a warm-up has asked for is none of its children's business
	t.lowerProcs(procs)
	t.rehearse()
	refork.ShedThreads()
	t.armed.collected = time.Now()
	refork.Collapse() // an old kernel cannot: then a fork costs more
	refork.KeepProgram()
	t.rehearse()
	refork.ShedThreads()
	return templateNews{kind: newsReady}
}

// runWarmUp calls it. Its goroutine is the main one, without which the template would neither answer nor end.
func (t *templateProcess) runWarmUp(warmUp func() error) error {
	returned := false
	defer func() {
		switch r := recover(); {
		case returned:
		case r != nil:
			panic(r)
		default:
			t.tell(templateNews{kind: newsFailed, reason: "warm-up: it called runtime.Goexit"}, -1)
			os.Exit(ExitFailure)
		}
	}()
	err := warmUp()
	returned = true
	return err
}

// rememberSignals returns what undoes calls of signal.Notify, and those of signal.Ignore that are made from now on.
func rememberSignals() (forget func()) {
	var ignored [65]bool
	for n := range ignored {
		ignored[n] = signal.Ignored(syscall.Signal(n))
	}
	return func() {
		for n := range ignored {
			if sig := syscall.Signal(n); signal.Ignored(sig) && !ignored[n] {
				signal.Notify(make(chan os.Signal, 1), sig) // which puts the handler back, as Reset alone does not
			}
		}
		if signalsNotified() {
			signal.Reset() // where nobody has asked for any it would start a thread
		}
	}
}

// lowerProcs sets GOMAXPROCS to 1: the template needs no more, the more it has the more threads it has, and a child has nothing to
// do at once until its parent knows that it is ready. procs is what it was before the warm-up. A child gets back what it was
// now, or the runtime's own choice where neither the warm-up nor GOMAXPROCS in the environment have made another.
func (t *templateProcess) lowerProcs(procs int) {
	now := runtime.GOMAXPROCS(1)
	t.restore = func() { runtime.GOMAXPROCS(now) }
	if now == procs && os.Getenv("GOMAXPROCS") == "" {
		t.restore = runtime.SetDefaultGOMAXPROCS
	}
}

// signalsNotified tells whether signal.Notify was ever called.
func signalsNotified() bool {
	stacks := make([]byte, 1<<20)
	n := runtime.Stack(stacks, true)
	return n == len(stacks) || bytes.Contains(stacks[:n], []byte("os/signal."))
}

// refusal is what is told of a [*refork.Refused].
func refusal(kind newsKind, err error) templateNews {
	reason, _, _ := strings.Cut(err.Error(), "\n") // several threads may have found the same
	n := templateNews{kind: kind, reason: reason}
	var refused *refork.Refused
	if errors.As(err, &refused) && refused.Remedy != "" {
		n.remedy = refused.Remedy
		n.reason = strings.TrimSuffix(n.reason, "; "+n.remedy)
	}
	errors.As(err, &n.errno)
	var scarce *ResourceError
	if errors.As(explainStart(err), &scarce) {
		n.resource, n.remedy = scarce.Resource, scarce.Remedy
	}
	return n
}

// errNoRequest is that of receive when it has waited as long as it should.
var errNoRequest = errors.New("no request")

// receive waits for a request, or for the rest of one. It returns io.EOF when there is nobody any more who would ask.
//
// The goroutine waits in the runtime's poller and is not locked to its thread meanwhile: so that very thread waits for the socket, no
// other one is there to poll beside it, and there are fewest to freeze.
func (t *templateProcess) receive() (r forkRequest, env environ, err error) {
	if t.got == 0 {
		if err := t.receiveFirst(); err != nil {
			return r, nil, err
		}
	}
	n := t.got
	t.got = 0
	if n < 4 {
		if err := t.readFull(t.room[n:4]); err != nil {
			return r, nil, err
		}
		n = 4
	}
	size := 4 + int(binary.LittleEndian.Uint32(t.room))
	if size > maxTemplateMessage || n > size {
		return r, nil, errTemplateMessage
	}
	if len(t.room) < size {
		larger := make([]byte, size)
		copy(larger, t.room[:n])
		clear(t.room)
		t.room = larger
	}
	t.request = t.room[:size]
	if err := t.readFull(t.request[n:]); err != nil {
		return r, nil, err
	}
	return decodeForkRequest(t.request[4:])
}

// receiveFirst receives the descriptors and what there is of the message.
func (t *templateProcess) receiveFirst() error {
	t.iov = unix.Iovec{Base: &t.room[0], Len: uint64(len(t.room))}
	t.header = unix.Msghdr{Iov: &t.iov, Iovlen: 1, Control: &t.oob[0], Controllen: uint64(len(t.oob))}
	if t.armed.rest > 0 {
		t.conn.SetReadDeadline(time.Now().Add(t.armed.rest))
		defer t.conn.SetReadDeadline(time.Time{})
	}
	err := t.raw.Read(t.recvmsg)
	t.armed.rested = time.Now()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errNoRequest
	case err != nil:
		return err
	case t.errno == syscall.ECONNRESET, t.errno == 0 && t.got == 0:
		return io.EOF
	case t.errno != 0:
		return os.NewSyscallError("recvmsg", t.errno)
	}
	t.takeFiles()
	return nil
}

// takeFiles takes the descriptors of the message that was received (cmsg(3), SCM_RIGHTS in unix(7)): all of them, or as many as this
// process could have.
func (t *templateProcess) takeFiles() {
	t.nFiles = 0
	h := (*unix.Cmsghdr)(unsafe.Pointer(&t.oob))
	if t.header.Controllen < unix.SizeofCmsghdr || h.Level != unix.SOL_SOCKET || h.Type != unix.SCM_RIGHTS {
		return
	}
	for at := unix.SizeofCmsghdr; at+4 <= int(h.Len) && t.nFiles < len(t.files); at += 4 {
		t.files[t.nFiles] = int(binary.LittleEndian.Uint32(t.oob[at:]))
		t.nFiles++
	}
}

func (t *templateProcess) recvmsg(fd uintptr) (done bool) {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&t.header)), syscall.MSG_CMSG_CLOEXEC)
		if e == syscall.EINTR {
			continue
		}
		t.got, t.errno = int(n), e
		return e != syscall.EAGAIN
	}
}

func (t *templateProcess) readFull(b []byte) error {
	_, err := io.ReadFull(t.conn, b)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// answer tells what came of a request, of which nothing is kept.
func (t *templateProcess) answer(pid, pidfd int, err error) {
	clear(t.request)
	for _, fd := range t.files[:t.nFiles] {
		rawClose(fd)
	}
	switch {
	case err != nil:
		t.tell(refusal(newsNotForked, err), -1)
	case !t.report.Sent:
		t.tell(templateNews{kind: newsForked, pid: pid}, pidfd)
	}
	if pidfd >= 0 {
		rawClose(pidfd)
	}
}

// rawClose closes a descriptor without a word to the runtime, which would wake its watchdog for that.
func rawClose(fd int) { syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// tell sends news. When they cannot be sent the Spawner is gone, which the next receive notices.
func (t *templateProcess) tell(news templateNews, pidfd int) {
	var oob []byte
	if pidfd >= 0 {
		oob = unix.UnixRights(pidfd)
	}
	b := news.encode()
	if n, _, err := t.conn.WriteMsgUnix(b, oob, nil); err == nil && n < len(b) {
		t.conn.Write(b[n:])
	}
}

// becomeChild makes this process, which was forked a moment ago, what an executed one is from its start.
func (t *templateProcess) becomeChild() (ticket handshake.Ticket, how joining, err error) {
	how.init = monotime.Now()
	r, env, err := decodeForkRequest(t.request[4:])
	if err == nil && t.nFiles != r.files() {
		err = errTemplateMessage
	}
	if err != nil {
		return ticket, how, fmt.Errorf("forkspawn: %w", err)
	}
	// Dead numbers that nothing of Go owns.
	for _, fd := range t.files[:3] {
		if fd > 2 {
			rawClose(fd)
		}
	}
	if r.ownGroup {
		syscall.Setpgid(0, 0) // the parent does so too: whoever comes first
	}
	if r.deathSignal != 0 {
		unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(r.deathSignal), 0, 0, 0)
		if os.Getppid() != t.spawner { // it died before
			syscall.Kill(os.Getpid(), r.deathSignal)
		}
	}
	nameProcess()
	err = syscall.Fchdir(t.files[3])
	rawClose(t.files[3])
	runtime.UnlockOSThread()
	if err != nil {
		return ticket, how, fmt.Errorf("forkspawn: %w", os.NewSyscallError("fchdir", err))
	}
	t.setEnviron(env)
	ticket, err = handshake.ParseTicket(string(r.ticket))
	clear(t.request)
	if r.connected {
		connect := connector(t.files[forkFiles])
		how.dial = func(context.Context) (net.Conn, error) { return connect() }
		how.control = connector(t.files[forkFiles+1])
	}
	become := func() {
		t.forker.EndAlone()
		t.restore()
		t.conn.Close() // dead here
	}
	hooks := afterForks()
	how.forkedSpare = r.spare
	if how.joined = become; len(hooks) > 0 {
		become()
		how.joined = nil
	}
	for _, f := range hooks {
		if err == nil {
			if err = f(); err != nil {
				err = fmt.Errorf("forkspawn: after the fork: %w", err)
			}
		}
	}
	return ticket, how, err
}

// setEnviron makes the environment the one that was asked for. As a rule it is that already, or differs in a variable or two.
func (t *templateProcess) setEnviron(env environ) {
	alike := env.len() == len(t.environ)
	for i, entry := range env.all {
		key := bytes.IndexByte(entry, '=') + 1
		alike = alike && key > 1 && len(t.environ[i]) >= key && t.environ[i][:key] == string(entry[:key])
	}
	if !alike {
		os.Clearenv()
	}
	for i, entry := range env.all {
		if alike && t.environ[i] == string(entry) {
			continue
		}
		if key, value, ok := strings.Cut(string(entry), "="); ok && key != "" {
			os.Setenv(key, value)
		}
	}
}

// connector returns what makes a connection of a socket, once; after an error it can be called again.
func connector(fd int) func() (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "socketpair")
	return func() (net.Conn, error) {
		conn, err := net.FileConn(file) // with a descriptor of its own
		if err != nil {
			return nil, explainScarcity(err)
		}
		file.Close()
		return conn, nil
	}
}
