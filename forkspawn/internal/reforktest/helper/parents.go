//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

func init() {
	scenarios["sibling"] = sibling
	scenarios["parent-death"] = parentDeath
	scenarios["leader"] = leader
}

// asking forks a template. The template forks a sibling, a child of this process,
// and the sibling calls child. asking returns both pids. Both forks keep the
// descriptors. endTemplate ends the template.
func asking(
	f *refork.Forker, child func(), fds ...int,
) (template, sibling int, endTemplate func(), err error) {
	var told, asked [2]int
	for _, p := range []*[2]int{&told, &asked} {
		if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
			return 0, 0, nil, err
		}
	}
	template, _, err = f.Fork(refork.Options{Keep: append(slices.Clone(fds), told[1], asked[0])})
	if err != nil {
		return 0, 0, nil, err
	}
	if template == 0 {
		pid, _, err := f.Fork(refork.Options{Sibling: true, Keep: fds})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if pid == 0 {
			child()
			os.Exit(5)
		}
		syscall.Write(told[1], fmt.Append(nil, pid))
		var b [1]byte
		syscall.Read(asked[0], b[:])
		os.Exit(6)
	}
	syscall.Close(told[1])
	syscall.Close(asked[0])
	var b [20]byte
	n, err := syscall.Read(told[0], b[:])
	syscall.Close(told[0])
	if err != nil {
		return 0, 0, nil, err
	}
	_, err = fmt.Sscan(string(b[:n]), &sibling)
	return template, sibling, func() { syscall.Close(asked[1]) }, err
}

func sibling(f *refork.Forker) error {
	for range 5 {
		self := os.Getpid()
		template, pid, end, err := asking(f, func() {
			runtime.GC()
			if os.Getppid() != self {
				os.Exit(1)
			}
		})
		if err != nil {
			return err
		}
		if status := wait(pid); status.ExitStatus() != 5 {
			return fmt.Errorf("sibling: exit status %d, signal %d",
				status.ExitStatus(), status.Signal())
		}
		end()
		if status := wait(template); status.ExitStatus() != 6 {
			return fmt.Errorf("template: exit status %d, signal %d",
				status.ExitStatus(), status.Signal())
		}
	}

	// The child's pidfd.
	pid, pidfd, err := f.Fork(refork.Options{Pidfd: true})
	if err != nil {
		return err
	}
	if pid == 0 {
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	if status := wait(pid); status.Signal() != syscall.SIGKILL {
		return fmt.Errorf("exit status %d, signal %d", status.ExitStatus(), status.Signal())
	}
	return syscall.Close(pidfd)
}

// parentDeath shows the time of a sibling's parent-death signal: the end of the
// thread that started the template.
func parentDeath(f *refork.Forker) error {
	type pids struct {
		template, sibling int
		end               func()
		err               error
	}
	started := make(chan pids)
	goOn := make(chan bool)
	var ready [2]int
	if err := syscall.Pipe2(ready[:], syscall.O_CLOEXEC); err != nil {
		return err
	}
	onThreadThatEnds(func() {
		var p pids
		p.template, p.sibling, p.end, p.err = asking(f, func() {
			runtime.LockOSThread()
			unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0, 0, 0)
			syscall.Write(ready[1], []byte("x"))
			time.Sleep(time.Minute)
		}, ready[1])
		started <- p
		<-goOn
	})
	p := <-started
	if p.err != nil {
		return p.err
	}
	defer syscall.Kill(p.sibling, syscall.SIGKILL)
	var b [1]byte
	if _, err := syscall.Read(ready[0], b[:]); err != nil {
		return err
	}
	p.end()
	wait(p.template)
	// The kernel sends parent-death signals before the dead process can be
	// waited for.
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(p.sibling, &status, syscall.WNOHANG, nil); pid != 0 || err != nil {
		return fmt.Errorf("the sibling ended with the template: %d, %v, status %#x", pid, err,
			status)
	}
	goOn <- true     // the thread ends
	for range 6000 { // a minute, to find hangs
		pid, err := syscall.Wait4(p.sibling, &status, syscall.WNOHANG, nil)
		if err != nil {
			return err
		}
		if pid != 0 {
			if status.Signal() != syscall.SIGTERM {
				return fmt.Errorf("the sibling: exit status %d, signal %d",
					status.ExitStatus(), status.Signal())
			}
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("the sibling has outlived the thread that started the template")
}

// onThreadThatEnds calls a function on a thread, and ends the thread after it.
// The runtime keeps the first thread, so it is another one.
func onThreadThatEnds(run func()) {
	go func() {
		runtime.LockOSThread() // and never unlocks
		if syscall.Gettid() != os.Getpid() {
			run()
			return
		}
		defer runtime.UnlockOSThread()
		elsewhere := make(chan bool)
		go func() {
			runtime.LockOSThread()
			elsewhere <- true
			run()
		}()
		<-elsewhere
	}()
}

// leader uses the child's first thread and ordinary Go code.
func leader(f *refork.Forker) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return well(f, refork.Options{}, func() string {
		if syscall.Gettid() != os.Getpid() {
			return fmt.Sprintf("the goroutine is on thread %d of %d", syscall.Gettid(), os.Getpid())
		}
		name := append([]byte("forked-one"), 0)
		if _, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_NAME,
			uintptr(unsafe.Pointer(&name[0])), 0); e != 0 {
			return e.Error()
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getpid()))
		if err != nil || strings.TrimSpace(string(comm)) != "forked-one" {
			return fmt.Sprintf("comm %q, %v", comm, err)
		}
		if err := syscall.Setpgid(0, 0); err != nil {
			return err.Error()
		}
		if syscall.Getpgrp() != os.Getpid() {
			return "no process group of its own"
		}
		if err := os.Chdir("/"); err != nil {
			return err.Error()
		}
		if err := os.Setenv("REFORK", "child"); err != nil {
			return err.Error()
		}
		return ""
	})
}
