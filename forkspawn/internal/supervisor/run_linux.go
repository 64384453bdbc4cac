// Package supervisor is the far side of a launcher: a process on another machine that
// starts one child there, carries its connections and its output, passes signals on,
// and ends it when the connection to the launcher ends. It is the same program as the
// child.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

const (
	// unknownSilence is how long the launcher may be silent if nothing is known about
	// its machine: behind a jump host, for example. A launcher that is merely stopped
	// sends nothing either.
	unknownSilence = 5 * time.Minute
	// drainBound is how long the report of the child's end waits for its last output.
	drainBound = 500 * time.Millisecond
	// acceptRest is how long connections of an ended child are accepted. They are in
	// the kernel's queue already.
	acceptRest = time.Millisecond
	// acceptPause is the pause after an accept that has failed.
	acceptPause = 10 * time.Millisecond
	// endBound bounds the wait for a killed child.
	endBound = 2 * time.Second
)

// Run supervises a child and returns the exit status. order is the value of
// link.SupervisorEnv. The
// calling thread must live as long as the process.
func Run(order string) int {
	// The kernel kills the child when this thread ends (PR_SET_PDEATHSIG in prctl(2)).
	runtime.LockOSThread()
	os.Unsetenv(link.SupervisorEnv)
	nonce, silence, err := link.ParseOrder(order)
	if err != nil {
		fmt.Fprintln(os.Stderr, "forkspawn:", err)
		return 1
	}
	in, out, err := takeStdio()
	if err != nil {
		fmt.Fprintln(os.Stderr, "forkspawn: supervisor:", err)
		return 1
	}
	connection := os.Getenv("SSH_CONNECTION")
	if _, err := fmt.Fprintf(out, "%s%s ready %s\n", link.Magic, nonce, connection); err != nil {
		return 1
	}
	// The launcher removes programs that were not used for a month.
	os.Chtimes("/proc/self/exe", time.Time{}, time.Now())
	s := &supervisor{orders: make(chan *link.Start, 1)}
	near, here := parseConnection(connection)
	s.link = link.New(in, out, link.Config{
		Message: s.message, Silence: silence, Unknown: unknownSilence,
		Peer: func() link.Verdict { return link.TCPPeer(here, near) },
	})
	s.run()
	return 0
}

// takeStdio moves stdin and stdout to other descriptors, so that nothing else writes
// there.
func takeStdio() (in, out *os.File, err error) {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(null)
	var files [2]*os.File
	for fd := range files {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, nil, err
		}
		files[fd] = os.NewFile(uintptr(n), "link")
		if err := unix.Dup3(null, fd, 0); err != nil {
			return nil, nil, err
		}
	}
	return files[0], files[1], nil
}

// parseConnection parses SSH_CONNECTION of ssh(1): the client's address and port, and
// the server's. The addresses are not valid if it is malformed.
func parseConnection(s string) (client, server netip.AddrPort) {
	field := strings.Fields(s)
	if len(field) != 4 {
		return client, server
	}
	client, _ = netip.ParseAddrPort(net.JoinHostPort(field[0], field[1]))
	server, _ = netip.ParseAddrPort(net.JoinHostPort(field[2], field[3]))
	return client, server
}

// supervisor holds one child.
type supervisor struct {
	link   *link.Link
	orders chan *link.Start
	conns  sync.WaitGroup // the streams' goroutines
	// connections so far; it belongs to accept
	accepted uint16

	killing atomic.Bool // the launcher has asked for SIGKILL

	mu    sync.Mutex // guards child
	child *osproc.Process
}

// message takes a message of the launcher.
func (s *supervisor) message(body []byte) {
	var m link.ToFar
	if link.Decode(body, &m) != nil {
		return
	}
	if m.Start != nil {
		select {
		case s.orders <- m.Start:
		default: // a second one
		}
		return
	}
	s.mu.Lock()
	p := s.child
	s.mu.Unlock()
	if max(m.Signal, m.Group) == int(syscall.SIGKILL) {
		s.killing.Store(true)
	}
	switch {
	case p == nil:
	case m.Signal != 0:
		p.Signal(syscall.Signal(m.Signal))
	case m.Group != 0:
		p.SignalGroup(syscall.Signal(m.Group))
	}
}

// run starts the child and holds it until the connection to the launcher ends.
func (s *supervisor) run() {
	var order *link.Start
	select {
	case order = <-s.orders:
	case <-s.link.Done():
		return
	}
	dir, err := unixsock.NewDir()
	if err != nil {
		s.fail(err)
		return
	}
	defer dir.Remove()
	if err := s.supervise(order, dir); err != nil {
		s.fail(err)
	}
}

// fail reports an error to the launcher, and waits for its end.
func (s *supervisor) fail(err error) {
	f := &link.Failed{Text: err.Error()}
	var path *fs.PathError
	var errno syscall.Errno
	if errors.As(err, &path) {
		f.Op, f.Path = path.Op, path.Path
	}
	if errors.As(err, &errno) {
		f.Errno = unix.ErrnoName(errno)
	}
	s.link.Send(link.ToNear{Failed: f})
	wait.For(context.Background(), s.link.Done(), endBound)
}

// supervise starts the child with a socket in dir, and ends it with the link.
func (s *supervisor) supervise(order *link.Start, dir *unixsock.Dir) error {
	addr := transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("s")}
	ln, err := uds.Listen(context.Background(), addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	ticket, err := osproc.MarkedPipe([]byte(order.Ticket + " " + addr.String() + "\n"))
	order.Ticket = ""
	if err != nil {
		return err
	}
	defer ticket.Close()
	killed := oomKills()
	p, err := s.start(order, ticket)
	if err != nil {
		return err
	}
	if os.Getpid() == 1 {
		defer reapOthers(p.PID())()
	}
	socket := ln.(socketListener)
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		s.accept(socket, p.PID(), func() { osproc.Unmark(ticket) })
	}()
	s.link.Send(link.ToNear{Started: p.PID()})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		status := p.Wait()
		starved := status.Signal == syscall.SIGKILL && !s.killing.Load() && oomKills() > killed
		socket.SetDeadline(time.Unix(1, 0))
		<-accepting
		socket.SetDeadline(time.Now().Add(acceptRest))
		s.accept(socket, p.PID(), nil) // what the child has sent just before its end
		s.link.AwaitSent(drainBound)
		s.link.Send(link.ToNear{Exited: &link.Exited{Known: status.Known, Code: status.Code,
			Signal: int(status.Signal), Core: status.Core, OOM: starved}})
	}()
	<-s.link.Done()
	p.SignalGroup(syscall.SIGKILL)
	wait.For(context.Background(), ended, endBound)
	return nil
}

// start starts the child.
func (s *supervisor) start(order *link.Start, ticket *os.File) (*osproc.Process, error) {
	attr := &osproc.Attr{
		Command: osproc.Command{Path: order.Path, Args: order.Args,
			Env: append(os.Environ(), order.Env...), NewSession: order.NewSession},
		Dir: order.Dir, Stdin: ticket, OwnGroup: true, ParentDeathSignal: syscall.SIGKILL,
	}
	var ours, theirs []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	for _, o := range []struct {
		carry bool
		file  **os.File
	}{{order.Stdout, &attr.Stdout}, {order.Stderr, &attr.Stderr}} {
		if !o.carry {
			ours = append(ours, nil)
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(append(ours, theirs...))
			return nil, err
		}
		*o.file, ours, theirs = w, append(ours, r), append(theirs, w)
	}
	p, err := osproc.Start(context.Background(), attr)
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return nil, err
	}
	for i, r := range ours {
		if r != nil {
			stream := s.link.Stream(uint16(link.Stdout + i))
			s.conns.Go(func() {
				stream.SendFrom(r)
				r.Close()
			})
		}
	}
	s.mu.Lock()
	s.child = p
	s.mu.Unlock()
	return p, nil
}

// socketListener is what uds.Listen returns.
type socketListener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// accept carries the connections of the child until ln is closed or its deadline has
// passed. It calls joined after the first one.
func (s *supervisor) accept(ln socketListener, pid int, joined func()) {
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil: // descriptors are lacking
			time.Sleep(acceptPause)
			continue
		}
		if !isOurs(conn, pid) {
			conn.Close()
			continue
		}
		if joined != nil {
			joined()
			joined = nil
		}
		stream := s.link.Stream(link.FirstConn + s.accepted)
		s.accepted++
		stream.Open()
		s.conns.Go(func() { stream.Serve(conn.(*net.UnixConn)) })
	}
}

// isOurs reports whether a connection is from the child or a descendant of it.
func isOurs(conn net.Conn, pid int) bool {
	cred, err := unixsock.PeerCred(conn)
	if err != nil || cred.UID != uint32(os.Geteuid()) {
		return false
	}
	return cred.PID == pid || unixsock.PeerDescends(conn, pid) == nil
}
