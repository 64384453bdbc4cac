package forkspawn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/refork/selftest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
)

// The template's own side. Its stdin is the socket of its Spawner.

// templateProcess is this process as a template.
type templateProcess struct {
	control int // the socket, blocking
	spawner int // the process that it belongs to
	forker  *refork.Forker
	request []byte // the one under way; it has a secret, and an environment, which are the child's alone
	files   [forkFiles]int
}

// serveAsTemplate makes this process a template, with a warm-up, and returns in each child that it forks, with the ticket
// and the moment of the fork. It does not return in the template, which ends with its Spawner.
func serveAsTemplate(warmUp string) (ticket handshake.Ticket, forked int64, err error) {
	t := &templateProcess{spawner: os.Getppid()}
	nameProcess()
	if t.control, err = takeStdin(); err != nil {
		return ticket, 0, fmt.Errorf("forkspawn: template: %w", err)
	}
	if news := t.prepare(warmUp); news.kind != newsReady {
		t.tell(news, -1)
		os.Exit(ExitFailure)
	}
	runtime.LockOSThread() // the children's first thread, until they let it go
	t.tell(templateNews{kind: newsReady}, -1)
	for {
		err := t.receive()
		if err == io.EOF {
			os.Exit(0) // the Spawner is closed, or its process has ended
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "forkspawn: template:", err)
			os.Exit(ExitFailure)
		}
		if t.files[forkFiles-1] < 0 {
			t.answer(0, -1, &refork.Refused{Reason: "descriptors of the child", Err: syscall.EMFILE})
			continue
		}
		pid, pidfd, err := t.forker.Fork(refork.Options{Sibling: true, Pidfd: true, Files: []refork.File{
			{From: t.files[0], To: 0}, {From: t.files[1], To: 1}, {From: t.files[2], To: 2},
			{From: t.files[3], To: t.files[3]},
		}})
		if err == nil && pid == 0 {
			return t.becomeChild()
		}
		t.answer(pid, pidfd, err)
	}
}

// selfTestBound is there to find hangs: the test takes half a second.
const selfTestBound = time.Minute

// takeStdin returns stdin's socket under another number. Stdin is the null device then.
func takeStdin() (int, error) {
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return 0, explainScarcity(os.NewSyscallError("fcntl", err))
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, noNullDevice(&os.PathError{Op: "open", Path: os.DevNull, Err: err})
	}
	defer unix.Close(null)
	return fd, os.NewSyscallError("dup3", unix.Dup3(null, 0, 0))
}

// prepare finds out whether this process can be forked, has it warm up, and makes forks cheap.
func (t *templateProcess) prepare(name string) templateNews {
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
	refork.Collapse() // an old kernel cannot: then a fork costs more
	forget()          // what a warm-up has asked for is none of its children's business
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
		signal.Reset()
	}
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

// receive waits for a request, in this thread: the fewer threads and goroutines a template has the better. It returns
// io.EOF when there is nobody any more who would ask. The last of files is -1 when they could not be received.
func (t *templateProcess) receive() error {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*forkFiles))
	for i := range t.files {
		t.files[i] = -1
	}
	n, oobn, err := 0, 0, error(syscall.EINTR)
	for err == syscall.EINTR {
		n, oobn, _, _, err = syscall.Recvmsg(t.control, head[:], oob, syscall.MSG_CMSG_CLOEXEC)
	}
	switch {
	case err == syscall.ECONNRESET, err == nil && n == 0:
		return io.EOF
	case err != nil:
		return os.NewSyscallError("recvmsg", err)
	}
	fds, err := receivedFiles(oob[:oobn])
	if err != nil {
		return err
	}
	copy(t.files[:], fds)
	if err := t.readFull(head[n:]); err != nil {
		return err
	}
	size := int(binary.LittleEndian.Uint32(head[:]))
	if size > maxTemplateMessage {
		return errTemplateMessage
	}
	if cap(t.request) < size {
		t.request = make([]byte, size)
	}
	t.request = t.request[:size]
	return t.readFull(t.request)
}

func (t *templateProcess) readFull(b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Read(t.control, b)
		switch {
		case err == syscall.EINTR:
		case err == syscall.ECONNRESET, err == nil && n == 0:
			return io.EOF
		case err != nil:
			return os.NewSyscallError("read", err)
		default:
			b = b[n:]
		}
	}
	return nil
}

// receivedFiles returns the descriptors of a message (SCM_RIGHTS in unix(7)).
func receivedFiles(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	var fds []int
	for _, m := range messages {
		if list, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, list...)
		}
	}
	return fds, nil
}

// answer tells what came of a request, of which nothing is kept.
func (t *templateProcess) answer(pid, pidfd int, err error) {
	clear(t.request)
	for _, fd := range t.files {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
	news := templateNews{kind: newsForked, pid: pid}
	if err != nil {
		news = refusal(newsNotForked, err)
	}
	t.tell(news, pidfd)
	if pidfd >= 0 {
		syscall.Close(pidfd)
	}
}

// tell sends news. When they cannot be sent the Spawner is gone, which the next receive notices.
func (t *templateProcess) tell(news templateNews, pidfd int) {
	var oob []byte
	if pidfd >= 0 {
		oob = unix.UnixRights(pidfd)
	}
	for b := news.encode(); len(b) > 0; {
		n, err := syscall.SendmsgN(t.control, b, oob, nil, syscall.MSG_NOSIGNAL)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return
		default:
			b, oob = b[n:], nil
		}
	}
}

// becomeChild makes this process, which was forked a moment ago, what an executed one is from its start.
func (t *templateProcess) becomeChild() (ticket handshake.Ticket, forked int64, err error) {
	forked = monotime.Now()
	r, err := decodeForkRequest(t.request)
	if err != nil {
		return ticket, forked, fmt.Errorf("forkspawn: %w", err)
	}
	// Dead numbers that nothing of Go owns.
	syscall.Close(t.control)
	for _, fd := range t.files[:3] {
		if fd > 2 {
			syscall.Close(fd)
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
	syscall.Close(t.files[3])
	runtime.UnlockOSThread()
	if err != nil {
		return ticket, forked, fmt.Errorf("forkspawn: %w", os.NewSyscallError("fchdir", err))
	}
	os.Clearenv()
	for _, kv := range r.env {
		if key, value, ok := strings.Cut(kv, "="); ok && key != "" {
			os.Setenv(key, value)
		}
	}
	ticket, err = handshake.ParseTicket(string(r.ticket))
	clear(t.request)
	for _, f := range afterForks() {
		if err == nil {
			if err = f(); err != nil {
				err = fmt.Errorf("forkspawn: after the fork: %w", err)
			}
		}
	}
	return ticket, forked, err
}
