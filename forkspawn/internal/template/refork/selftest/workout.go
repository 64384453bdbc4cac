//go:build linux

package selftest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

// Draws is the number of random numbers of a Workout.
const Draws = 4

// Workout uses the whole runtime of a forked child. It collects garbage, runs
// goroutines and timers, preempts a loop without calls, uses a socket, executes
// a program, and forks again, with depth nested forks. It returns random
// numbers of its own and of its descendants.
func Workout(f *refork.Forker, depth int) ([]uint64, error) {
	draws := make([]uint64, Draws)
	for i := range draws {
		draws[i] = rand.Uint64()
	}
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"collect", collect},
		{"goroutines", goroutines},
		{"timers", timers},
		{"preempt", preempt},
		{"echo over a socket", echo},
		{"collect again", collect},
		{"execute a program", execute},
	} {
		if err := step.run(); err != nil {
			return draws, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if depth > 0 {
		o := Fork(f, depth-1, 0)
		if o.Failure != "" {
			return draws, fmt.Errorf("fork once more: %s: %s", o.Failure, o.Detail)
		}
		draws = append(draws, o.Draws...)
	}
	return draws, nil
}

func collect() error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var keep [][]byte
	for range 20 {
		keep = append(keep, bytes.Repeat([]byte{7}, 10_000))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if after.NumGC == before.NumGC {
		return errors.New("no collection took place")
	}
	for _, b := range keep {
		if bytes.Count(b, []byte{7}) != len(b) {
			return errors.New("memory has changed")
		}
	}
	return nil
}

func goroutines() error {
	var wg sync.WaitGroup
	var n atomic.Int32
	c := make(chan int)
	for range 20 {
		wg.Go(func() {
			n.Add(int32(<-c))
		})
	}
	for range 20 {
		c <- 1
	}
	wg.Wait()
	if n.Load() != 20 {
		return fmt.Errorf("%d of 20 ran", n.Load())
	}
	return nil
}

func timers() error {
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	<-tick.C
	<-time.After(time.Millisecond)
	time.Sleep(time.Millisecond)
	if time.Since(start) < 2*time.Millisecond {
		return errors.New("too early")
	}
	return nil
}

// preempt ends a loop without calls. Only a signal of the runtime interrupts
// it.
func preempt() error {
	if !preemptsBySignal() {
		return nil
	}
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
		}
	}()
	runtime.Gosched() // with one P the loop is preempted here
	var m runtime.MemStats
	// stops the world; a collection would take many time slices of the loop
	runtime.ReadMemStats(&m)
	stop.Store(true)
	<-ended
	return nil
}

// preemptsBySignal reports whether GODEBUG=asyncpreemptoff=1 is not set, in the
// environment or in the program (//go:debug).
func preemptsBySignal() bool {
	settings := os.Getenv("GODEBUG")
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "DefaultGODEBUG" {
				settings = s.Value + "," + settings
			}
		}
	}
	on := true
	for setting := range strings.SplitSeq(settings, ",") {
		if value, ok := strings.CutPrefix(setting, "asyncpreemptoff="); ok {
			on = value != "1" // the last one counts
		}
	}
	return on
}

func echo() error {
	c, err := Echo()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Check()
}

// Conn is one end of a socket pair. A goroutine at the other end sends
// everything back.
type Conn struct {
	net.Conn
	ended chan struct{}
}

// Echo returns a Conn. The caller closes it.
func Echo() (*Conn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX,
		syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket pair")
		conns[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			return nil, err
		}
	}
	c := &Conn{conns[0], make(chan struct{})}
	go func() {
		defer close(c.ended)
		defer conns[1].Close()
		io.Copy(struct{ io.Writer }{conns[1]}, struct{ io.Reader }{conns[1]})
	}()
	return c, nil
}

// Check sends a message and waits until it comes back.
func (c *Conn) Check() error {
	c.SetDeadline(time.Now().Add(Bound))
	message := bytes.Repeat([]byte("x"), 1000)
	if _, err := c.Write(message); err != nil {
		return err
	}
	answer := make([]byte, 1000)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if !bytes.Equal(answer, message) {
		return errors.New("another answer")
	}
	return nil
}

// Close also ends the goroutine.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	<-c.ended
	return err
}

func execute() error {
	if _, err := os.Stat("/bin/true"); err != nil {
		return nil
	}
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
	if err != nil {
		return os.NewSyscallError("execve", err)
	}
	status, err := Reap(pid)
	switch {
	case errors.Is(err, syscall.ECHILD):
		return nil // other code here waits for all children
	case err != nil:
		return os.NewSyscallError("wait4", err)
	case status != 0:
		return fmt.Errorf("/bin/true ended with status %#x", status)
	}
	return nil
}

// hangs is the Failure of a child that has not finished in time.
const hangs = "hang"

// Outcome is the result of one child.
type Outcome struct {
	Call    time.Duration // of Fork, in the parent
	Hello   time.Duration // from the call of Fork until the child's first byte
	Draws   []uint64
	Failure string // refused, hang, crash or wrong; "" is success
	Detail  string
}

// Bound is the time for one workout. A child that takes longer hangs.
const Bound = time.Minute

// Fork forks a child that does a Workout, and waits for it. A bound of 0 is
// Bound, and more for nested forks. A child that hangs writes its goroutines to
// stderr (SIGQUIT), and is killed.
func Fork(f *refork.Forker, depth int, bound time.Duration) (o Outcome) {
	fail := func(failure string, format string, args ...any) Outcome {
		o.Failure, o.Detail = failure, fmt.Sprintf(format, args...)
		return o
	}
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return fail("refused", "pipe: %v", err)
	}
	syscall.SetNonblock(p[0], true)
	r := os.NewFile(uintptr(p[0]), "answer")
	defer r.Close()

	start := time.Now()
	alone := time.Duration(start.UnixMicro()%2) * 5 * time.Millisecond // about every other time
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		syscall.Close(p[1])
		return fail("refused", "socketpair: %v", err)
	}
	report := refork.Report{Socket: pair[0], Message: []byte("pid 1234"), PID: 4}
	pid, _, err := f.Fork(refork.Options{Keep: []int{p[1]}, Alone: alone, Report: &report})
	if err == nil && pid == 0 {
		Answer(f, p[1], depth)
	}
	told, n := make([]byte, len(report.Message)+1), 0
	if err == nil && report.Sent {
		n, _ = syscall.Read(pair[1], told)
	}
	syscall.Close(pair[0])
	syscall.Close(pair[1])
	if err != nil {
		syscall.Close(p[1])
		return fail("refused", "%v", err)
	}
	if want := append([]byte("pid "), byte(pid), byte(pid>>8), byte(pid>>16),
		byte(pid>>24)); !report.Sent || !bytes.Equal(told[:n], want) {
		return fail("wrong", "child %d was reported as %q", pid, told[:n])
	}
	o.Call = time.Since(start)
	syscall.Close(p[1])
	o.Follow(pid, r, start, depth, bound)
	return o
}

// Follow reads the messages of a child that runs Answer, waits for its end, and
// sets the outcome. start is when Fork was called.
func (o *Outcome) Follow(pid int, r *os.File, start time.Time, depth int, bound time.Duration) {
	fail := func(failure string, format string, args ...any) {
		o.Failure, o.Detail = failure, fmt.Sprintf(format, args...)
	}
	if bound == 0 {
		bound = Bound * time.Duration(depth+1)
	}
	r.SetReadDeadline(start.Add(bound))
	var text strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 && o.Hello == 0 {
			o.Hello = time.Since(start)
		}
		text.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			inspect(pid)
			syscall.Kill(pid, syscall.SIGQUIT)
			time.Sleep(time.Second)
			syscall.Kill(pid, syscall.SIGKILL)
			Reap(pid)
			fail(hangs, "child %d has not finished in %v; it said %q", pid, bound, text.String())
			return
		}
		if err != nil {
			fail("wrong", "read: %v", err)
			return
		}
	}
	status, _ := Reap(pid)
	said, found := strings.CutPrefix(text.String(), "hello\n")
	switch {
	case status.Signaled() || !found || !strings.HasSuffix(said, "\n"):
		fail("crash", "child %d: signal %d, exit status %d; it said %q", pid, status.Signal(),
			status.ExitStatus(), text.String())
		return
	case status.ExitStatus() != 42 || !strings.HasPrefix(said, "ok"):
		fail("wrong", "child %d: exit status %d; it said %q", pid, status.ExitStatus(), said)
		return
	}
	for word := range strings.FieldsSeq(strings.TrimPrefix(said, "ok")) {
		var x uint64
		if _, err := fmt.Sscanf(word, "%x", &x); err != nil {
			fail("wrong", "child %d said %q", pid, said)
			return
		}
		o.Draws = append(o.Draws, x)
	}
	if len(o.Draws) != Draws*(depth+1) {
		fail("wrong", "child %d gave %d random numbers for %d", pid, len(o.Draws), Draws*(depth+1))
	}
}

// Answer runs in the child. It sends hello, does a Workout, sends the result,
// and exits.
func Answer(f *refork.Forker, fd, depth int) {
	syscall.Write(fd, []byte("hello\n"))
	draws, err := Workout(f, depth)
	text := "ok"
	for _, x := range draws {
		text += fmt.Sprintf(" %x", x)
	}
	if err != nil {
		text = err.Error()
	}
	syscall.Write(fd, []byte(text+"\n"))
	syscall.Exit(42)
}

// inspect writes the state of each thread of a process that hangs.
func inspect(pid int) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, _ := os.ReadDir(dir)
	for _, t := range tasks {
		for _, name := range []string{"status", "syscall", "wchan"} {
			text, _ := os.ReadFile(dir + "/" + t.Name() + "/" + name)
			fmt.Fprintf(os.Stderr, "thread %s of %d, %s: %s\n", t.Name(), pid, name, text)
		}
	}
}

// Reap waits for a child's end. Its error is that of wait4(2).
func Reap(pid int) (status syscall.WaitStatus, err error) {
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			return status, err
		}
	}
}
