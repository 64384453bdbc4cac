//go:build linux && amd64

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/refork"
)

func init() {
	scenarios["request"] = request
}

// request waits for requests that come as they should, and for what ends the wait.
func request(f *refork.Forker) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
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
	message := func(text string) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...)
	}
	send := func(b []byte, files int) error {
		fds := make([]int, files)
		for i := range fds {
			fds[i] = null
		}
		fds[1], fds[files-1] = answer[1], answer[1]
		return unix.Sendmsg(pair[1], b, unix.UnixRights(fds...), nil, 0)
	}
	r := refork.Request{Socket: pair[0], Room: make([]byte, 64), Control: make([]byte, 64), Counts: [2]int{4, 4}}
	var report *refork.Report
	// forked forks, and sets r. It closes in the parent what came.
	forked := func(patience time.Duration) (int, error) {
		r.Patience = patience
		pid, _, err := f.Fork(refork.Options{Request: &r, Report: report, Pidfd: report != nil})
		if err == nil && pid == 0 {
			unix.Write(1, r.Room[4:r.Size]) // a copy of what was asked with
			if last := int(r.Control[unix.SizeofCmsghdr+12]); last > 2 {
				unix.Write(last, []byte(" and 4"))
			}
			if _, err := unix.FcntlInt(uintptr(r.Control[unix.SizeofCmsghdr+4]), unix.F_GETFD, 0); err != nil {
				unix.Write(1, []byte(" and no dead number"))
			}
			os.Exit(0)
		}
		files, _ := unix.ParseSocketControlMessage(r.Control[:r.ControlSize])
		for i := range files {
			fds, _ := unix.ParseUnixRights(&files[i])
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
		return pid, err
	}
	descriptors := func() int {
		entries, _ := os.ReadDir("/proc/self/fd")
		return len(entries)
	}
	open := 0
	for i := range 50 {
		if i == 1 { // the first has opened what forks need
			open = descriptors()
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
			return fmt.Errorf("%s: %d bytes, %d of control, idle: %t", what, r.Size, r.ControlSize, r.Idle)
		}
		return nil
	}
	if err := disarmed("nothing", time.Millisecond, 0, true); err != nil {
		return err
	}
	for what, b := range map[string][]byte{
		"a part": message("part")[:5], "no length": {4}, "more than a message": append(message("whole"), 1), "too long": message(strings.Repeat("x", 100))[:64],
	} {
		if err := errors.Join(send(b, 4), disarmed(what, time.Minute, len(b), false)); err != nil {
			return err
		}
	}
	for _, n := range []int{3, 5} {
		if err := errors.Join(send(message("files"), n), disarmed("other descriptors", time.Minute, 9, false)); err != nil {
			return err
		}
	}

	// Several in a row, each reported.
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

	// A signal is handled, and the request that came with it is there still.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	kill := exec.Command("/bin/sh", "-c", "sleep 0.2; kill -USR1 "+strconv.Itoa(os.Getpid()))
	if err := kill.Start(); err != nil {
		return err
	}
	if err := disarmed("a signal", time.Minute, 0, false); err != nil {
		return err
	}
	select {
	case <-signals:
	case <-time.After(time.Minute):
		return errors.New("the signal was not handled")
	}
	kill.Wait()
	signal.Reset()

	if now := descriptors(); now != open {
		return fmt.Errorf("%d descriptors before and %d after", open, now)
	}
	unix.Close(pair[1])
	if err := disarmed("the end", time.Minute, 0, false); err != nil {
		return err
	}
	return healthy(f)
}
