//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

func init() {
	scenarios["descriptors"] = descriptors
	scenarios["kinds"] = kinds
	scenarios["finalizers"] = finalizers
	scenarios["parked"] = parked
	scenarios["stdio"] = stdio
	scenarios["kept-socket"] = keptSocket
	scenarios["descriptor-limit"] = descriptorLimit
	scenarios["bad-files"] = badFiles
}

// pair returns a socket pair as two net.Conn.
func pair() (a, b net.Conn, fds [2]int, err error) {
	fds, err = syscall.Socketpair(syscall.AF_UNIX,
		syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(file); err != nil {
			return
		}
		// net.FileConn has made a duplicate.
		file.Close()
		raw, err := conns[i].(syscall.Conn).SyscallConn()
		if err != nil {
			return nil, nil, fds, err
		}
		raw.Control(func(fd uintptr) { fds[i] = int(fd) })
	}
	return conns[0], conns[1], fds, nil
}

// alive returns the open descriptors from 3 up that are not dead. A read from a
// dead one returns EOF.
func alive() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var names []string
	for _, e := range entries {
		var fd int
		fmt.Sscan(e.Name(), &fd)
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		switch base := filepath.Base(link); {
		case strings.HasPrefix(link, "anon_inode:"), base == "cpu.max",
			strings.HasPrefix(base, "cpu.cfs_"):
			continue // the runtime's
		}
		if listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); listens == 1 {
			continue // the scenario "kinds" has these
		}
		var b [1]byte
		if n, err := syscall.Read(fd, b[:]); n == 0 && err == nil {
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if flags&unix.FD_CLOEXEC != 0 {
				continue
			}
			link += " without close-on-exec"
		}
		names = append(names, e.Name()+" "+link)
	}
	return names
}

// descriptors leaks descriptors of all kinds, and checks those of the child.
func descriptors(f *refork.Forker) error {
	a, b, _, err := pair()
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	if _, err := b.Write([]byte("not for the child")); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	for _, fd := range []int{40, 700} { // no close-on-exec
		if err := syscall.Dup3(1, fd, 0); err != nil {
			return err
		}
	}
	err = well(f, refork.Options{}, func() string {
		var still []string
		for _, name := range alive() {
			if !strings.Contains(name, "pipe:") { // the answer
				still = append(still, name)
			}
		}
		if len(still) > 0 {
			return "alive: " + strings.Join(still, ", ")
		}
		if _, err := b.Write([]byte("x")); err == nil {
			return "a write to a socket of the parent's went through"
		}
		out, err := exec.Command("ls", "/proc/self/fd").Output()
		if got := strings.Fields(string(out)); err != nil ||
			!slices.Equal(got, []string{"0", "1", "2", "3"}) {
			return fmt.Sprintf("a program that the child starts has the descriptors %v (%v)", got,
				err)
		}
		return ""
	})
	if err != nil {
		return err
	}
	// The parent's descriptors are unchanged.
	buf := make([]byte, 100)
	if n, err := a.Read(buf); err != nil || string(buf[:n]) != "not for the child" {
		return fmt.Errorf("the parent's socket: %q, %v", buf[:n], err)
	}
	return nil
}

// finalizers leaves files to the collector. In the child it closes them, and
// the child's other descriptors must not have their numbers.
func finalizers(f *refork.Forker) error {
	for range 5 {
		var leaked []*os.File
		for range 50 {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			leaked = append(leaked, r, w)
		}
		err := well(f, refork.Options{}, func() string {
			leaked = nil
			conn, err := selftest.Echo()
			if err != nil {
				return err.Error()
			}
			for range 10 {
				runtime.GC()
				time.Sleep(time.Millisecond) // finalizers and cleanups run in their own goroutine
				if err := conn.Check(); err != nil {
					return "a socket of the child's: " + err.Error()
				}
			}
			return ""
		})
		if err != nil {
			return err
		}
		runtime.KeepAlive(leaked)
	}
	return nil
}

// parked has goroutines wait at sockets. In the child the wait ends, and in the
// parent it goes on.
func parked(f *refork.Forker) error {
	const n = 50
	type result struct {
		i    int
		text string
		err  error
	}
	results := make(chan result, n)
	var writers []net.Conn
	for i := range n {
		a, b, _, err := pair()
		if err != nil {
			return err
		}
		writers = append(writers, b)
		go func() {
			text, err := io.ReadAll(a)
			results <- result{i, string(text), err}
		}()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := listener.Accept()
		accepted <- err
	}()
	for range 3 {
		err := well(f, refork.Options{}, func() string {
			for range n {
				r := <-results
				if r.text != "" || r.err != nil {
					return fmt.Sprintf("a read of the parent's socket: %q, %v", r.text, r.err)
				}
			}
			select {
			case err := <-accepted:
				return fmt.Sprintf("accept on the parent's listener has returned: %v", err)
			case <-time.After(20 * time.Millisecond):
				return ""
			}
		})
		if err != nil {
			return err
		}
	}
	select {
	case r := <-results:
		return fmt.Errorf("in the parent: %q, %v", r.text, r.err)
	default:
	}
	for i, w := range writers {
		if _, err := fmt.Fprint(w, i); err != nil {
			return err
		}
		w.Close()
	}
	for range n {
		if r := <-results; r.text != fmt.Sprint(r.i) || r.err != nil {
			return fmt.Errorf("in the parent: %q, %v", r.text, r.err)
		}
	}
	listener.Close()
	<-accepted
	return nil
}

// stdio gives a child other standard streams, in mixed order.
func stdio(f *refork.Forker) error {
	var in, out, errs [2]int
	for _, p := range []*[2]int{&in, &out, &errs} {
		if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
			return err
		}
	}
	if _, err := syscall.Write(in[1], []byte("request")); err != nil {
		return err
	}
	syscall.Close(in[1])
	err := well(f, refork.Options{Stdio: [3]int{in[0], out[1], errs[1]}}, func() string {
		request, err := io.ReadAll(os.Stdin)
		if err != nil || string(request) != "request" {
			return fmt.Sprintf("stdin: %q, %v", request, err)
		}
		fmt.Print("answer ")
		cmd := exec.Command("sh", "-c", "echo program; echo error >&2")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return text(cmd.Run())
	})
	if err != nil {
		return err
	}
	for _, c := range []struct {
		p    [2]int
		want string
	}{{out, "answer program\n"}, {errs, "error\n"}} {
		syscall.Close(c.p[1])
		r := os.NewFile(uintptr(c.p[0]), "")
		got, err := io.ReadAll(r) // ends, because only the child had the other end
		r.Close()
		if err != nil || string(got) != c.want {
			return fmt.Errorf("%q in place of %q, %v", got, c.want, err)
		}
	}
	return nil
}

// keptSocket gives the child a connection that the runtime's poller already
// knows.
func keptSocket(f *refork.Forker) error {
	a, b, fds, err := pair()
	if err != nil {
		return err
	}
	defer b.Close()
	pid, answer, err := start(f, refork.Options{Keep: []int{fds[0]}}, func() string {
		buf := make([]byte, 100_000)
		n, err := io.ReadFull(a, buf) // waits in the poller often
		if err != nil || bytes.Count(buf[:n], []byte("x")) != len(buf) {
			return fmt.Sprintf("%d bytes, %v", n, err)
		}
		a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := a.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Sprintf("a deadline: %v", err)
		}
		_, err = a.Write([]byte("done"))
		return text(err)
	})
	if err != nil {
		return err
	}
	a.Close() // the child has its own descriptor
	for range 100 {
		if _, err := b.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
	got, err := io.ReadAll(b)
	if err != nil || string(got) != "done" {
		return fmt.Errorf("%q, %v", got, err)
	}
	said, err := answer()
	wait(pid)
	if err != nil || said != "" {
		return fmt.Errorf("child: %s, %v", said, err)
	}
	return nil
}

// descriptorLimit forks with no free descriptors but those of the fork itself.
func descriptorLimit(f *refork.Forker) error {
	const limit = 64
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE,
		&syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	var used []int
	for {
		fd, err := syscall.Dup(0)
		if err != nil {
			break
		}
		used = append(used, fd)
	}
	_, _, err := f.Fork(refork.Options{})
	if !errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("with no descriptor left: %v", err)
	}
	// two for the answer, four for the fork, and one that is closed again
	for _, fd := range used[len(used)-7:] {
		syscall.Close(fd)
	}
	return well(f, refork.Options{}, func() string { return "" })
}

// badFiles asks for impossible files.
func badFiles(f *refork.Forker) error {
	for _, c := range []struct {
		o    refork.Options
		want string
	}{
		{refork.Options{Stdio: [3]int{900}},
			"descriptor 900, which the child shall get, is not open"},
		{refork.Options{Keep: []int{-1}}, "descriptor -1, which the child shall get, is not open"},
		{refork.Options{Keep: make([]int, 62)}, "65 descriptors for the child"},
	} {
		var refused *refork.Refused
		if _, _, err := f.Fork(c.o); !errors.As(err, &refused) ||
			!strings.Contains(err.Error(), c.want) {
			return fmt.Errorf("%v in place of %q", err, c.want)
		}
	}
	var wg sync.WaitGroup
	for range 4 { // forks of several goroutines take turns
		wg.Go(func() {
			if err := well(f, refork.Options{}, func() string { return "" }); err != nil {
				fmt.Println(err)
			}
		})
	}
	wg.Wait()
	return nil
}
