//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

// kinds opens files of all kinds, and checks those of two children.
func kinds(f *refork.Forker) error {
	dir, err := os.MkdirTemp("", "kinds")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var files [5]*os.File
	for i, flags := range []int{
		os.O_APPEND | os.O_WRONLY, os.O_WRONLY, os.O_RDONLY, os.O_RDONLY, os.O_RDWR,
	} {
		path := filepath.Join(dir, fmt.Sprint(i))
		if i == 3 {
			path = dir
		} else if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
			return err
		}
		if files[i], err = os.OpenFile(path, flags, 0); err != nil {
			return err
		}
		defer files[i].Close()
	}
	log, created, read, folder, database := files[0], files[1], files[2], files[3], files[4]
	three := make([]byte, 3)
	if _, err := io.ReadFull(read, three); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer datagrams.Close()
	silent, err := events(dir)
	if err != nil {
		return err
	}
	for _, fd := range silent {
		defer syscall.Close(fd)
	}
	dead := slices.DeleteFunc(f.DeadFiles(), func(path string) bool {
		return !strings.HasPrefix(path, dir)
	})
	if len(dead) != 1 || dead[0] != database.Name() {
		return fmt.Errorf("named as dead: %q", dead)
	}
	for range 2 {
		err := well(f, refork.Options{}, func() string {
			soon := time.Now().Add(10 * time.Millisecond)
			listener.(*net.TCPListener).SetDeadline(soon)
			datagrams.SetReadDeadline(soon)
			fmt.Fprint(log, "a line\n")
			fmt.Fprint(created, "a line\n")
			text, err := io.ReadAll(read)
			names, err2 := folder.Readdirnames(-1)
			_, err3 := listener.Accept()
			_, _, err4 := datagrams.ReadFrom(three)
			_, err5 := database.WriteString("x")
			if string(text) != "3456789" || err != nil || len(names) != 5 || err2 != nil ||
				!os.IsTimeout(err3) || !os.IsTimeout(err4) || err5 == nil {
				return fmt.Sprintf("%q %v; %q %v; %v; %v; %v",
					text, err, names, err2, err3, err4, err5)
			}
			for name, fd := range silent {
				if n, err := syscall.Read(fd, make([]byte, 100)); err != syscall.EAGAIN {
					return fmt.Sprintf("a read from the %s: %d, %v", name, n, err)
				}
			}
			return ""
		})
		if err != nil {
			return err
		}
	}
	// In the parent all is as before.
	rest, err := io.ReadAll(read)
	lines, err2 := os.ReadFile(log.Name())
	made, err3 := os.ReadFile(created.Name())
	if string(rest) != "3456789" || err != nil || err2 != nil || err3 != nil ||
		!bytes.HasSuffix(lines, []byte("9a line\na line\n")) ||
		!bytes.HasPrefix(made, []byte("a line\na line\n")) {
		return fmt.Errorf("in the parent: %q %v; %q %v; %q %v", rest, err, lines, err2, made, err3)
	}
	return nil
}

// events returns descriptors of the parent that have something to read.
func events(dir string) (map[string]int, error) {
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "3"), nil, 0o600); err != nil {
		return nil, err
	}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	spec := unix.ItimerSpec{Value: unix.Timespec{Nsec: 1}}
	if err := unix.TimerfdSettime(timer, 0, &spec, nil); err != nil {
		return nil, err
	}
	event, err := unix.Eventfd(1, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return map[string]int{"inotify": watch, "timerfd": timer, "eventfd": event}, nil
}
