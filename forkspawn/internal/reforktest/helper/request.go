//go:build linux && (amd64 || arm64)

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

func init() {
	scenarios["request"] = request
	scenarios["request-on-stack"] = requestOnStack
	scenarios["request-blocked-signal"] = requestBlockedSignal
	scenarios["request-truncated"] = requestTruncated
	scenarios["request-peer-dies"] = requestPeerDies
}

func message(text string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// request waits for good requests, and for all else that ends the wait.
func request(f *refork.Forker) error {
	pair, err := socketPair()
	if err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var answer [2]int
	if err := unix.Pipe2(answer[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	send := func(b []byte, files int) error {
		fds := make([]int, files)
		for i := range fds {
			fds[i] = null
		}
		fds[1], fds[files-1] = answer[1], answer[1]
		return unix.Sendmsg(pair[1], b, unix.UnixRights(fds...), nil, 0)
	}
	r := requestOn(pair[0])
	var report *refork.Report
	// forked forks, and sets r. In the parent it closes the received
	// descriptors.
	forked := func(patience time.Duration) (int, error) {
		r.Patience = patience
		pid, _, err := forkAsked(f,
			refork.Options{Request: &r, Report: report, Pidfd: report != nil})
		if err == nil && pid == 0 {
			unix.Write(1, r.Room[4:r.Size]) // a copy of the request
			if last := int(r.Control[unix.SizeofCmsghdr+12]); last > 2 {
				unix.Write(last, []byte(" and 4"))
			}
			if _, err := unix.FcntlInt(uintptr(r.Control[unix.SizeofCmsghdr+4]),
				unix.F_GETFD, 0); err != nil {
				unix.Write(1, []byte(" and no dead number"))
			}
			os.Exit(0)
		}
		closeReceived(&r)
		return pid, err
	}
	open := 0
	for i := range 50 {
		if i == 1 { // the first fork has opened its own descriptors
			open = openFiles()
		}
		text := "child " + strconv.Itoa(i)
		if err := send(message(text), 4); err != nil {
			return err
		}
		pid, err := forked(time.Minute)
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if status := wait(pid); status != 0 {
			return fmt.Errorf("child %d: status %x", i, status)
		}
		said := make([]byte, 64)
		n, err := unix.Read(answer[0], said)
		if err != nil || string(said[:n]) != text+" and 4" {
			return fmt.Errorf("child %d: said %q, %v", i, said[:max(n, 0)], err)
		}
	}

	disarmed := func(what string, patience time.Duration, size int, idle bool) error {
		switch _, err := forked(patience); {
		case !errors.Is(err, refork.ErrDisarmed):
			return fmt.Errorf("%s: %v", what, err)
		case r.Size != size || r.Idle != idle || (r.ControlSize > 0) != (size > 0):
			return fmt.Errorf("%s: %d bytes, %d of control, idle: %t", what,
				r.Size, r.ControlSize, r.Idle)
		}
		return nil
	}
	if err := disarmed("nothing", time.Millisecond, 0, true); err != nil {
		return err
	}
	for what, b := range map[string][]byte{
		"a part": message("part")[:5], "no length": {4},
		"more than a message": append(message("whole"), 1),
		"too long":            message(strings.Repeat("x", 100))[:64],
	} {
		if err := errors.Join(send(b, 4), disarmed(what, time.Minute, len(b), false)); err != nil {
			return err
		}
	}
	for _, n := range []int{3, 5} {
		if err := errors.Join(send(message("files"), n),
			disarmed("other descriptors", time.Minute, 9, false)); err != nil {
			return err
		}
	}

	// Several in a row, each with a report.
	report = &refork.Report{Socket: pair[0], Message: make([]byte, 4)}
	for range 3 {
		if err := send(message("in a row"), 4); err != nil {
			return err
		}
	}
	if err := disarmed("three in a row", 3*time.Second, 0, true); err != nil {
		return err
	}
	for range 3 {
		pid, pidfd := make([]byte, 4), make([]byte, 64)
		n, size, _, _, err := unix.Recvmsg(pair[1], pid, pidfd, unix.MSG_DONTWAIT)
		if err != nil || n != 4 || size == 0 {
			return fmt.Errorf("a report of %d bytes, %d of control, %v", n, size, err)
		}
		unix.Close(int(pidfd[unix.SizeofCmsghdr]))
		if status := wait(int(binary.LittleEndian.Uint32(pid))); status != 0 {
			return fmt.Errorf("child in a row: status %x", status)
		}
	}
	said := make([]byte, 64)
	if n, err := unix.Read(answer[0], said); err != nil || n != 3*len("in a row and 4") {
		return fmt.Errorf("children in a row said %q, %v", said[:max(n, 0)], err)
	}
	if strings.Contains(string(r.Room), "in a row") {
		return errors.New("a request is left when it is served")
	}
	report = nil

	// A signal is handled, and the request at the same time is not lost.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	kill := exec.Command("/bin/sh", "-c", "sleep 0.2; kill -USR1 "+strconv.Itoa(os.Getpid()))
	if err := kill.Start(); err != nil {
		return err
	}
	r.Patience = time.Minute
	if _, _, err := f.Fork(refork.Options{Request: &r}); !errors.Is(err, refork.ErrDisarmed) ||
		r.Size > 0 || r.Idle {
		return fmt.Errorf("a signal: %v, %d bytes, idle: %t", err, r.Size, r.Idle)
	}
	select {
	case <-signals:
	case <-time.After(time.Minute):
		return errors.New("the signal was not handled")
	}
	kill.Wait()
	signal.Reset()

	if now := openFiles(); now != open {
		return fmt.Errorf("%d descriptors before and %d after", open, now)
	}
	unix.Close(pair[1])
	if err := disarmed("the end", time.Minute, 0, false); err != nil {
		return err
	}
	return healthy(f)
}

func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

func socketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

func requestOn(socket int) refork.Request {
	return refork.Request{Socket: socket, Room: make([]byte, 64), Control: make([]byte, 64),
		Counts: [2]int{4, 4}, Patience: time.Minute}
}

// asked sends a request whose descriptors are copies of stderr.
func asked(socket int, text string) error {
	return unix.Sendmsg(socket, message(text), unix.UnixRights(2, 2, 2, 2), nil, 0)
}

// forkAsked is Fork with a Request. It tries again when the threads could not
// be frozen.
func forkAsked(f *refork.Forker, o refork.Options) (pid, pidfd int, err error) {
	for range 100 {
		pid, pidfd, err = f.Fork(o)
		if r := o.Request; !errors.Is(err, refork.ErrDisarmed) || r.Size > 0 || r.Idle {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return pid, pidfd, err
}

// closeReceived closes the descriptors of a request.
func closeReceived(r *refork.Request) (n int) {
	files, _ := unix.ParseSocketControlMessage(r.Control[:r.ControlSize])
	for i := range files {
		fds, _ := unix.ParseUnixRights(&files[i])
		for _, fd := range fds {
			unix.Close(fd)
			n++
		}
	}
	return n
}

// requestOnStack has the message in an array on a goroutine's stack. Each stack
// has a little less room, so it grows a little earlier in Fork.
func requestOnStack(f *refork.Forker) error {
	pair, err := socketPair()
	if err != nil {
		return err
	}
	for depth := range 120 {
		if err := asked(pair[1], "for the stack"); err != nil {
			return err
		}
		result := make(chan error)
		go func() { result <- forkFromStack(f, pair[0], depth) }()
		if err := <-result; err != nil {
			return fmt.Errorf("%d calls deep: %w", depth, err)
		}
	}
	return nil
}

func forkFromStack(f *refork.Forker, socket, depth int) error {
	if depth > 0 {
		return forkFromStack(f, socket, depth-1)
	}
	var room, control [64]byte
	r := refork.Request{Socket: socket, Room: room[:], Control: control[:],
		Counts: [2]int{4, 4}, Patience: time.Minute}
	pid, _, err := forkAsked(f, refork.Options{Request: &r})
	switch {
	case err == nil && pid == 0:
		os.Exit(0)
	case err != nil:
		return err
	case wait(pid) != 0 || r.Size != 4+13 ||
		string(room[4:17]) != "for the stack" || control[0] == 0:
		return fmt.Errorf("%d bytes of a request: %q", r.Size, room)
	}
	for fd := int(control[unix.SizeofCmsghdr]); fd < int(control[unix.SizeofCmsghdr])+4; fd++ {
		unix.Close(fd)
	}
	return nil
}

// requestBlockedSignal runs in a program that was started with a signal
// blocked, so all its threads block it. The signal stays pending.
func requestBlockedSignal(f *refork.Forker) error {
	const blocked = "REFORK_BLOCKED"
	if os.Getenv(blocked) == "" {
		runtime.LockOSThread()
		set := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGUSR2 - 1)}}
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
			return err
		}
		return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), blocked+"=1"))
	}
	pair, err := socketPair()
	if err != nil {
		return err
	}
	if err := unix.Kill(os.Getpid(), unix.SIGUSR2); err != nil {
		return err
	}
	r := requestOn(pair[0])
	r.Patience = 20 * time.Millisecond
	if _, _, err = forkAsked(f, refork.Options{Request: &r}); !errors.Is(err, refork.ErrDisarmed) ||
		!r.Idle {
		return fmt.Errorf("with nothing but a blocked signal: %v, idle: %t", err, r.Idle)
	}
	if err := asked(pair[1], "beside the signal"); err != nil {
		return err
	}
	r.Patience = time.Minute
	pid, _, err := forkAsked(f, refork.Options{Request: &r})
	switch {
	case err == nil && pid == 0:
		os.Exit(0)
	case err != nil:
		return err
	}
	if status := wait(pid); status != 0 {
		return fmt.Errorf("status %x", status)
	}
	return nil
}

// requestTruncated has free numbers for some of a request's descriptors only,
// and then for all of them, but not for the child's.
func requestTruncated(f *refork.Forker) error {
	pair, err := socketPair()
	if err != nil {
		return err
	}
	// opens the descriptors of forks
	if err := well(f, refork.Options{}, func() string { return "" }); err != nil {
		return err
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		return err
	}
	free, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0) // the lowest free number
	if err != nil {
		return err
	}
	unix.Close(free)
	open := openFiles()
	r := requestOn(pair[0])
	for room := range 5 {
		if err := asked(pair[1], "with few numbers"); err != nil {
			return err
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE,
			&unix.Rlimit{Cur: uint64(free + room), Max: old.Max}); err != nil {
			return err
		}
		pid, _, err := forkAsked(f, refork.Options{Request: &r})
		if err == nil && pid == 0 {
			os.Exit(0)
		}
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		if !errors.Is(err, refork.ErrDisarmed) || r.Size != 4+16 {
			return fmt.Errorf("room for %d: %v, %d bytes", room, err, r.Size)
		}
		if n := closeReceived(&r); n > room {
			return fmt.Errorf("room for %d: %d came", room, n)
		}
		if now := openFiles(); now != open {
			return fmt.Errorf("room for %d: %d descriptors before and %d after", room, open, now)
		}
	}
	return healthy(f)
}

// requestPeerDies waits for a request from a process that ends.
func requestPeerDies(f *refork.Forker) error {
	pair, err := socketPair()
	if err != nil {
		return err
	}
	for what, end := range map[string]func(){
		"dies":                       func() { unix.Kill(os.Getpid(), unix.SIGKILL) },
		"shuts its side":             func() { unix.Shutdown(pair[1], unix.SHUT_WR) },
		"says a part of it and dies": func() { unix.Write(pair[1], []byte("xyz")) },
	} {
		if pair, err = socketPair(); err != nil {
			return err
		}
		pid, _, err := f.Fork(refork.Options{Keep: []int{pair[1]}})
		if err == nil && pid == 0 {
			time.Sleep(100 * time.Millisecond) // usually the other process is frozen by then
			end()
			time.Sleep(100 * time.Millisecond)
			os.Exit(0)
		}
		if err != nil {
			return err
		}
		unix.Close(pair[1])
		r := requestOn(pair[0])
		if _, _, err = f.Fork(refork.Options{Request: &r}); !errors.Is(err, refork.ErrDisarmed) ||
			r.Idle {
			return fmt.Errorf("a peer that %s: %v, idle: %t", what, err, r.Idle)
		}
		wait(pid)
		unix.Close(pair[0])
	}
	return healthy(f)
}
