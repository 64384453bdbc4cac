//go:build linux && (amd64 || arm64)

// Command helper runs the scenarios of the tests of package refork, because
// these can be built with cgo. Its argument is a scenario. It prints "ok" or
// the failure. "all" runs each scenario in a process of its own.
package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

// scenarios return the failure, or nil. They return in the parent only.
var scenarios = map[string]func(f *refork.Forker) error{}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "all" {
		all()
		return
	}
	if len(os.Args) != 2 || scenarios[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: helper scenario, one of:",
			strings.Join(slices.Sorted(maps.Keys(scenarios)), " "))
		os.Exit(2)
	}
	f, err := refork.Prepare()
	if err == nil {
		err = scenarios[os.Args[1]](f)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ok")
}

// all runs all scenarios.
func all() {
	failed := false
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		out, err := exec.Command("/proc/self/exe", name).CombinedOutput()
		fmt.Printf("%s: %s", name, out)
		if err != nil {
			fmt.Println(err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// fork forks a child that calls a function, and waits for it. It returns the
// function's result, "" for success, and the exit status.
func fork(
	f *refork.Forker, o refork.Options, child func() string,
) (string, syscall.WaitStatus, error) {
	pid, answer, err := start(f, o, child)
	if err != nil {
		return "", 0, err
	}
	said, err := answer()
	return said, wait(pid), err
}

// start is fork without the wait.
func start(
	f *refork.Forker, o refork.Options, child func() string,
) (pid int, answer func() (string, error), err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return 0, nil, err
	}
	defer syscall.Close(p[1])
	o.Keep = append(slices.Clip(o.Keep), p[1])
	pid, _, err = f.Fork(o)
	if err != nil {
		syscall.Close(p[0])
		return 0, nil, err
	}
	if pid == 0 {
		said := child()
		syscall.Write(p[1], []byte(said))
		os.Exit(0)
	}
	syscall.SetNonblock(p[0], true)
	r := os.NewFile(uintptr(p[0]), "answer")
	return pid, func() (string, error) {
		defer r.Close()
		r.SetReadDeadline(time.Now().Add(time.Minute))
		said, err := io.ReadAll(r)
		if err != nil {
			syscall.Kill(pid, syscall.SIGKILL)
			return string(said), fmt.Errorf("child %d hangs: %w", pid, err)
		}
		return string(said), nil
	}, nil
}

// well forks a child and expects success.
func well(f *refork.Forker, o refork.Options, child func() string) error {
	said, status, err := fork(f, o, child)
	switch {
	case err != nil:
		return err
	case said != "":
		return fmt.Errorf("child: %s", said)
	case status != 0:
		return fmt.Errorf("child: exit status %d, signal %d", status.ExitStatus(), status.Signal())
	}
	return nil
}

func wait(pid int) syscall.WaitStatus {
	status, _ := selftest.Reap(pid)
	return status
}

// text returns the text of an error, or "".
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
