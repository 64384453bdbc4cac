//go:build amd64 || arm64

package template

import (
	"bytes"
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

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

// server is this process as a template. Its stdin was the socket of its parent.
//
// Each page that the template or its child writes to between two forks costs
// both a fault of about two microseconds, and those are most of the time of a
// start. So the server allocates before it waits for a request, and reads as
// little of the request as it can.
type server struct {
	program Program
	conn    *net.UnixConn // to the parent
	raw     syscall.RawConn
	parent  int // its pid
	forker  *refork.Forker
	environ []string // of the template, and so of a child whose request has the same
	restore func()   // sets GOMAXPROCS to what it was before it was lowered to 1

	room    []byte // for requests
	request []byte // the current one; its secret and its environment are for the child alone
	nFiles  int    // that came with it
	files   [connectedFiles]int
	header  unix.Msghdr
	iov     unix.Iovec
	// for descriptors, no more than files has room for
	oob [unix.SizeofCmsghdr + 4*connectedFiles]byte
	// bytes that recvmsg has received, and receive has not looked at
	got    int
	errno  syscall.Errno
	report refork.Report
	armed  armed
}

const (
	firstRoom = 16 << 10 // for a request, in bytes; it grows
	// aloneBound is how long a child runs without its other threads, until its
	// parent knows that it is ready.
	aloneBound  = 5 * time.Millisecond
	exitFailure = 1
)

// Serve makes this process a template, and returns in each of its children.
// It does not return in the template, which ends with its parent.
func Serve(program Program) (*Child, error) {
	s := &server{program: program, parent: os.Getppid(), room: make([]byte, firstRoom)}
	if err := s.takeStdin(); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	if !onFirstThread() {
		s.reply(reply{kind: replyRefused, reason: "Init was not called by the main goroutine",
			remedy: "call it first thing in main"}, -1)
		os.Exit(exitFailure)
	}
	if r := s.prepare(); r.kind != replyReady {
		s.reply(r, -1)
		os.Exit(exitFailure)
	}
	osproc.NameProcess()
	forked := reply{kind: replyForked}
	s.report = refork.Report{Message: forked.encode(), PID: pidOffset}
	s.raw.Control(func(fd uintptr) { s.report.Socket = int(fd) })
	s.prepareArmed()
	dead := strings.Join(s.forker.DeadFiles(s.report.Socket), ", ")
	s.reply(reply{kind: replyReady, reason: dead}, -1)
	for {
		pid, pidfd, err := s.forkArmed()
		if errors.Is(err, refork.ErrDisarmed) {
			pid, pidfd, err = s.forkAsked()
		}
		switch {
		case errors.Is(err, errNoRequest):
		case err == nil && pid == 0:
			return s.becomeChild()
		default:
			s.answer(pid, pidfd, err)
		}
	}
}

// forkAsked waits for a request, or for the rest of one, and forks this
// process.
func (s *server) forkAsked() (pid, pidfd int, err error) {
	request, _, err := s.receive()
	switch {
	case errors.Is(err, errNoRequest):
		return 0, -1, err
	case errors.Is(err, io.EOF):
		os.Exit(0) // the Spawner is closed, or its process has ended
	case err != nil:
		fmt.Fprintln(os.Stderr, "forkspawn: template:", err)
		os.Exit(exitFailure)
	case s.nFiles != request.files():
		return 0, -1, &refork.Refused{Reason: "descriptors of the child", Err: syscall.EMFILE}
	}
	return s.fork(refork.Options{Stdio: [3]int(s.files[:3]), Keep: s.files[3:s.nFiles]})
}

// fork forks this process. In the child, too, the goroutine is locked to the first
// thread.
func (s *server) fork(o refork.Options) (pid, pidfd int, err error) {
	o.Sibling, o.Pidfd, o.Alone, o.Report = true, true, aloneBound, &s.report
	return s.forker.Fork(o)
}

// takeStdin makes a connection of the socket that stdin is, and stdin the null
// device.
func (s *server) takeStdin() error {
	conn, err := net.FileConn(os.Stdin) // with a descriptor of its own
	if err != nil {
		return osproc.ExplainScarcity(err)
	}
	s.conn = conn.(*net.UnixConn)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return osproc.NoNullDevice(&os.PathError{Op: "open", Path: os.DevNull, Err: err})
	}
	defer unix.Close(null)
	return os.NewSyscallError("dup3", unix.Dup3(null, 0, 0))
}

// prepare finds out whether this process can be forked, runs the warm-up, and
// makes forks cheap.
func (s *server) prepare() reply {
	procs := runtime.GOMAXPROCS(0)
	err := s.program.Err
	if err != nil {
		return reply{kind: replyFailed, reason: err.Error()}
	}
	if s.forker, err = refork.Prepare(); err == nil {
		err = selftest.Run(s.forker) // while the heap is small
	}
	if err != nil {
		if r := refusal(replyFailed, err); r.resource != "" ||
			errors.Is(err, selftest.ErrStalled) || errors.Is(err, refork.ErrSlow) {
			return r // the next template may have the resource, or the time
		}
		return refusal(replyRefused, err)
	}
	forget := rememberSignals()
	if err := s.warmUp(); err != nil {
		return reply{kind: replyFailed, reason: "warm-up: " + err.Error()}
	}
	if err := refork.CheckThreads(); err != nil {
		return refusal(replyFailed, fmt.Errorf("warm-up: %w", err))
	}
	s.environ = os.Environ()
	forget() // the children do not inherit the warm-up's signals
	s.lowerProcs(procs)
	s.rehearse()
	refork.ShedThreads()
	s.armed.collected = time.Now()
	refork.Collapse() // where the kernel is too old, a fork costs more
	refork.KeepProgram()
	s.rehearse()
	refork.ShedThreads()
	return reply{kind: replyReady}
}

// warmUp calls the program's warm-up. Its goroutine is the main one, without
// which the template would neither answer nor end.
func (s *server) warmUp() error {
	returned := false
	defer func() {
		switch r := recover(); {
		case returned:
		case r != nil:
			panic(r)
		default:
			s.reply(reply{kind: replyFailed, reason: "warm-up: it called runtime.Goexit"}, -1)
			os.Exit(exitFailure)
		}
	}()
	err := s.program.WarmUp()
	returned = true
	return err
}

// rememberSignals returns a function that undoes all calls of signal.Notify,
// and those of signal.Ignore that are made from now on.
func rememberSignals() (forget func()) {
	var ignored [65]bool
	for n := range ignored {
		ignored[n] = signal.Ignored(syscall.Signal(n))
	}
	return func() {
		for n := range ignored {
			if sig := syscall.Signal(n); signal.Ignored(sig) && !ignored[n] {
				// sets the handler again, which Reset alone does not
				signal.Notify(make(chan os.Signal, 1), sig)
			}
		}
		if signalsNotified() {
			signal.Reset() // in a process without handlers it would start a thread
		}
	}
}

// signalsNotified reports whether signal.Notify was ever called.
func signalsNotified() bool {
	stacks := make([]byte, 1<<20)
	n := runtime.Stack(stacks, true)
	return n == len(stacks) || bytes.Contains(stacks[:n], []byte("os/signal."))
}

// lowerProcs sets GOMAXPROCS to 1. The template needs no more, and would have
// more threads with more. Nor does a child until its parent knows that it is ready.
// Then the child gets the value of the warm-up or of the environment, or else the
// runtime's own choice. procs is the value before the warm-up.
func (s *server) lowerProcs(procs int) {
	now := runtime.GOMAXPROCS(1)
	s.restore = func() { runtime.GOMAXPROCS(now) }
	if now == procs && os.Getenv("GOMAXPROCS") == "" {
		s.restore = runtime.SetDefaultGOMAXPROCS
	}
}

// refusal returns a reply with the reason of a [*refork.Refused] or another
// error.
func refusal(kind replyKind, err error) reply {
	reason, _, _ := strings.Cut(err.Error(), "\n") // several threads may have found the same
	r := reply{kind: kind, reason: reason}
	var refused *refork.Refused
	if errors.As(err, &refused) && refused.Remedy != "" {
		r.remedy = refused.Remedy
		r.reason = strings.TrimSuffix(r.reason, "; "+r.remedy)
	}
	errors.As(err, &r.errno)
	var scarce *osproc.ResourceError
	if errors.As(osproc.ExplainStart(err), &scarce) {
		r.resource, r.remedy = scarce.Resource, scarce.Remedy
	}
	return r
}

// errNoRequest is the error of receive after its time.
var errNoRequest = errors.New("no request")

// receive waits for a request, or for the rest of one. It returns io.EOF when
// the parent has closed the socket.
//
// The goroutine waits in the runtime's poller.
func (s *server) receive() (r request, env environ, err error) {
	if s.got == 0 {
		if err := s.receiveFirst(); err != nil {
			return r, nil, err
		}
	}
	n := s.got
	s.got = 0
	if n < 4 {
		if err := s.readFull(s.room[n:4]); err != nil {
			return r, nil, err
		}
		n = 4
	}
	size := 4 + int(binary.LittleEndian.Uint32(s.room))
	if size > maxMessage || n > size {
		return r, nil, errMessage
	}
	if len(s.room) < size {
		larger := make([]byte, size)
		copy(larger, s.room[:n])
		clear(s.room)
		s.room = larger
	}
	s.request = s.room[:size]
	if err := s.readFull(s.request[n:]); err != nil {
		return r, nil, err
	}
	return decodeRequest(s.request[4:])
}

// receiveFirst receives the descriptors, and as much of the message as there
// is.
func (s *server) receiveFirst() error {
	s.iov = unix.Iovec{Base: &s.room[0], Len: uint64(len(s.room))}
	s.header = unix.Msghdr{Iov: &s.iov, Iovlen: 1, Control: &s.oob[0],
		Controllen: uint64(len(s.oob))}
	if s.armed.rest > 0 {
		s.conn.SetReadDeadline(time.Now().Add(s.armed.rest))
		defer s.conn.SetReadDeadline(time.Time{})
	}
	err := s.raw.Read(s.recvmsg)
	s.armed.rested = time.Now()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errNoRequest
	case err != nil:
		return err
	case s.errno == syscall.ECONNRESET, s.errno == 0 && s.got == 0:
		return io.EOF
	case s.errno != 0:
		return os.NewSyscallError("recvmsg", s.errno)
	}
	s.takeFiles()
	return nil
}

// takeFiles takes the descriptors of the message (cmsg(3), SCM_RIGHTS in
// unix(7)), as many of them as this process could get.
func (s *server) takeFiles() {
	s.nFiles = 0
	h := (*unix.Cmsghdr)(unsafe.Pointer(&s.oob))
	if s.header.Controllen < unix.SizeofCmsghdr || h.Level != unix.SOL_SOCKET ||
		h.Type != unix.SCM_RIGHTS {
		return
	}
	for at := unix.SizeofCmsghdr; at+4 <= int(h.Len) && s.nFiles < len(s.files); at += 4 {
		s.files[s.nFiles] = int(binary.LittleEndian.Uint32(s.oob[at:]))
		s.nFiles++
	}
}

func (s *server) recvmsg(fd uintptr) (done bool) {
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&s.header)),
			syscall.MSG_CMSG_CLOEXEC)
		if e == syscall.EINTR {
			continue
		}
		s.got, s.errno = int(n), e
		return e != syscall.EAGAIN
	}
}

func (s *server) readFull(b []byte) error {
	_, err := io.ReadFull(s.conn, b)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// answer sends the outcome of a request, and erases the request.
func (s *server) answer(pid, pidfd int, err error) {
	clear(s.request)
	for _, fd := range s.files[:s.nFiles] {
		rawClose(fd)
	}
	switch {
	case err != nil:
		s.reply(refusal(replyNotForked, err), -1)
	case !s.report.Sent:
		s.reply(reply{kind: replyForked, pid: pid}, pidfd)
	}
	if pidfd >= 0 {
		rawClose(pidfd)
	}
}

// rawClose closes a descriptor without the runtime's knowledge, which would
// wake its monitor thread for the call.
func rawClose(fd int) { syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// reply sends a reply. It ignores errors, because the next receive returns
// io.EOF when the parent has ended.
func (s *server) reply(r reply, pidfd int) {
	var oob []byte
	if pidfd >= 0 {
		oob = unix.UnixRights(pidfd)
	}
	b := r.encode()
	if n, _, err := s.conn.WriteMsgUnix(b, oob, nil); err == nil && n < len(b) {
		s.conn.Write(b[n:])
	}
}
