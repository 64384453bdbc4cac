//go:build linux && (amd64 || arm64)

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

// asker asks a server for children. The server and the children are all its own
// children.
type asker struct {
	s       shape
	server  int
	conn    *net.UnixConn
	null    int
	waiting []asked      // requests without an answer, oldest first
	stats   refork.Stats // of the server
	stopped int          // children forked by a frozen server
}

// asked is a request without an answer.
type asked struct {
	start  time.Time
	answer *os.File
}

// Sizes of messages.
const (
	maxRequest = 2000
	reportSize = 4 + 1 + 2 + 4 // pid, whether the server was frozen, its threads, its retries
)

// patience is shorter than some of the pauses between requests.
const patience = 5 * time.Millisecond

func startServer(f *refork.Forker, s shape) (*asker, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	pid, _, err := f.Fork(refork.Options{Keep: []int{pair[1]}})
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		beginWork(s)
		unix.Write(pair[1], make([]byte, reportSize)) // for no child
		if err := serve(f, s, pair[1]); err != nil {
			fmt.Fprintln(os.Stderr, "server:", err)
			os.Exit(1)
		}
		os.Exit(0) // the asker has ended
	}
	unix.Close(pair[1])
	file := os.NewFile(uintptr(pair[0]), "server")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	a := &asker{s: s, server: pid, conn: conn.(*net.UnixConn), null: null}
	_, err = a.reported()
	return a, err
}

// fork asks for one to three children at once, but no more than left. It
// follows the first, and the others in later calls.
func (a *asker) fork(left int) (o selftest.Outcome) {
	if len(a.waiting) == 0 {
		// often zero
		time.Sleep(time.Duration(rand.IntN(3)) * time.Duration(rand.IntN(int(patience))))
		for range min(left, 1+rand.IntN(3)) {
			if err := a.ask(); err != nil {
				a.lost(err)
			}
		}
	}
	first := a.waiting[0]
	a.waiting = a.waiting[1:]
	defer first.answer.Close()
	pid, err := a.reported()
	if err != nil {
		a.lost(err)
	}
	if pid == 0 {
		return selftest.Outcome{Failure: "refused", Detail: "see the server's stderr"}
	}
	o.Call = time.Since(first.start)
	o.Follow(pid, first.answer, first.start, a.s.depth, 0)
	return o
}

// lost ends this process, because the server does not answer. A server that
// hangs writes its goroutines to stderr.
func (a *asker) lost(err error) {
	fmt.Fprintln(os.Stderr, "the server does not answer:", err)
	syscall.Kill(a.server, syscall.SIGQUIT)
	time.Sleep(time.Second)
	syscall.Kill(a.server, syscall.SIGKILL)
	os.Exit(1)
}

// ask sends a request. Its fourth descriptor is for the child's answer.
func (a *asker) ask() error {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return err
	}
	defer syscall.Close(p[1])
	syscall.SetNonblock(p[0], true)
	message := make([]byte, 4+1+rand.IntN(maxRequest))
	binary.LittleEndian.PutUint32(message, uint32(len(message)-4))
	for i, first := 4, rand.Int(); i < len(message); i++ {
		message[i] = byte(first + i)
	}
	begin := message
	if a.s.parts && rand.IntN(2) == 0 {
		begin = message[:1+rand.IntN(len(message)-1)]
	}
	a.waiting = append(a.waiting, asked{time.Now(), os.NewFile(uintptr(p[0]), "answer")})
	a.conn.SetWriteDeadline(time.Now().Add(selftest.Bound))
	if _, _, err := a.conn.WriteMsgUnix(begin,
		unix.UnixRights(a.null, a.null, 2, p[1]), nil); err != nil {
		return err
	}
	for rest := message[len(begin):]; len(rest) > 0; {
		time.Sleep(time.Duration(rand.IntN(2)) * time.Duration(rand.IntN(int(time.Millisecond))))
		n := 1 + rand.IntN(len(rest))
		if n < 100 {
			n = len(rest)
		}
		if _, err := a.conn.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// reported receives the report of the next child and returns its pid. The
// report also has a pidfd and statistics of the server.
func (a *asker) reported() (pid int, err error) {
	message, control := make([]byte, reportSize), make([]byte, unix.CmsgSpace(4))
	a.conn.SetReadDeadline(time.Now().Add(selftest.Bound))
	n, size, _, _, err := a.conn.ReadMsgUnix(message, control)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	case n < reportSize:
		return 0, fmt.Errorf("a report of %d bytes", n)
	}
	pid = int(binary.LittleEndian.Uint32(message))
	if (size > 0) != (pid != 0) {
		return 0, fmt.Errorf("a report of child %d with %d bytes of a pidfd", pid, size)
	}
	if size > 0 {
		unix.Close(int(binary.NativeEndian.Uint32(control[unix.SizeofCmsghdr:])))
	}
	a.stopped += int(message[4])
	a.stats.Threads = int(binary.LittleEndian.Uint16(message[5:]))
	a.stats.Retries = int(binary.LittleEndian.Uint32(message[7:]))
	return pid, nil
}

// serve forks a child for each request. If a request comes in parts or together
// with a signal, serve receives it itself. It returns when the asker has ended,
// and never in a child.
func serve(f *refork.Forker, s shape, socket int) error {
	report := refork.Report{Socket: socket, Message: make([]byte, reportSize)}
	r := refork.Request{
		Socket: socket, Room: make([]byte, 2*maxRequest),
		Control: make([]byte, unix.SizeofCmsghdr+4*4), Counts: [2]int{4, 4},
		Patience: patience,
	}
	for {
		stats := f.Stats()
		binary.LittleEndian.PutUint16(report.Message[5:], uint16(stats.Threads))
		binary.LittleEndian.PutUint32(report.Message[7:], uint32(stats.Retries))
		o := refork.Options{
			Sibling: true, Pidfd: true, Report: &report,
			Alone: time.Duration(rand.IntN(2)) * 5 * time.Millisecond,
		}
		report.Message[4] = 1
		o.Request = &r
		runtime.Gosched() // see docs/design/172-armed-template.md
		pid, pidfd, err := f.Fork(o)
		if err == refork.ErrDisarmed {
			switch err := receive(&r); {
			case err == syscall.EAGAIN:
				time.Sleep(time.Millisecond) // the other goroutines run meanwhile
				continue
			case err == io.EOF:
				return nil
			case err != nil:
				return err
			}
			report.Message[4] = 0
			o.Request = nil
			fds := received(&r)
			o.Stdio, o.Keep = [3]int(fds[:3]), fds[3:]
			pid, pidfd, err = f.Fork(o)
		}
		switch {
		case err == nil && pid == 0:
			files := received(&r)
			if text := wrong(&r); text != "" {
				unix.Write(files[3], []byte("hello\n"+text+"\n"))
				os.Exit(1)
			}
			selftest.Answer(f, files[3], s.depth)
		case err != nil:
			fmt.Fprintln(os.Stderr, "server:", err)
			unix.Write(socket, make([]byte, reportSize))
		case !report.Sent:
			return errors.New("a child was not reported")
		}
		clear(r.Room[:r.Size])
		for _, fd := range received(&r) {
			unix.Close(fd)
		}
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
	}
}

// receive receives a request, or the rest of one.
func receive(r *refork.Request) error {
	if r.Size == 0 {
		n, size, _, _, err := unix.Recvmsg(r.Socket, r.Room, r.Control,
			unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == syscall.EINTR:
			return syscall.EAGAIN
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		}
		r.Size, r.ControlSize = n, size
	}
	for {
		whole := 4
		if r.Size >= 4 {
			whole += int(binary.LittleEndian.Uint32(r.Room))
		}
		if r.Size >= whole {
			return nil
		}
		n, err := unix.Read(r.Socket, r.Room[r.Size:whole])
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		default:
			r.Size += n
		}
	}
}

// received returns the descriptors of a request.
func received(r *refork.Request) (fds []int) {
	for at := unix.SizeofCmsghdr; at+4 <= r.ControlSize; at += 4 {
		fds = append(fds, int(binary.NativeEndian.Uint32(r.Control[at:])))
	}
	return fds
}

// wrong returns a fault of a request, or a trace of an earlier request; "" is
// none.
func wrong(r *refork.Request) string {
	if want := 4 + int(binary.LittleEndian.Uint32(r.Room)); r.Size != want {
		return fmt.Sprintf("a request of %d bytes, not %d", r.Size, want)
	}
	for i := 5; i < r.Size; i++ {
		if r.Room[i] != r.Room[i-1]+1 {
			return fmt.Sprintf("the request differs at %d", i)
		}
	}
	for i, b := range r.Room[r.Size:] {
		if b != 0 {
			return fmt.Sprintf("an earlier request is left at %d", r.Size+i)
		}
	}
	return ""
}
