package forkspawn_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() {
	moreRoles["shell"] = playShell
	moreRoles["terminal"] = playTerminal
}

// playShell is what a shell is to a program in a terminal: the session's leader, which runs it as the foreground
// job, and brings it back to the foreground when it was stopped.
func playShell(context.Context) error {
	cmd := role("terminal")
	job := exec.Command(cmd.Path, os.Args[1:]...)
	job.Env = append(os.Environ(), roleEnv+"=terminal")
	job.Stdin, job.Stdout, job.Stderr = os.Stdin, os.Stdout, os.Stderr
	job.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: 0}
	if err := job.Start(); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(job.Process.Pid, &status, syscall.WUNTRACED, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case status.Stopped():
			fmt.Println("job stopped")
			// fg: it has the terminal still, as nobody took it.
			if err := syscall.Kill(-job.Process.Pid, syscall.SIGCONT); err != nil {
				return err
			}
		default:
			fmt.Println("job exited", status.ExitStatus())
			return nil
		}
	}
}

// playTerminal is a program with three children that ends them on Ctrl-C.
func playTerminal(context.Context) error {
	os.Unsetenv(roleEnv) // its children play none
	s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, TermGrace: time.Hour, Trace: &forkspawn.Trace{
		Signalled: func(_ forkspawn.ChildEvent, s forkspawn.SignalInfo) { fmt.Println("sent", s.Signal) },
	}})
	if err != nil {
		return err
	}
	ctx, stop := s.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var children []*forkspawn.Child
	for range 3 {
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: os.Args[1], Args: len(os.Args) > 2})
		if err != nil {
			return err
		}
		var ready string
		if err := c.Recv(ctx, &ready); err != nil {
			return err
		}
		children = append(children, c)
	}
	fmt.Println("pids", children[0].PID(), children[1].PID(), children[2].PID())
	<-ctx.Done()
	fmt.Println("ended:", context.Cause(ctx))
	if os.Args[1] == "deaf" {
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		fmt.Println("closing")
		if err := <-closed; err != nil {
			return err
		}
		for _, c := range children {
			result, err := c.Stop(context.Background())
			fmt.Println(result, err)
		}
		return nil
	}
	for _, c := range children {
		var interrupts int
		if err := c.Cancel(context.Background(), "Ctrl-C"); err != nil {
			return err
		}
		if err := c.Recv(context.Background(), &interrupts); err != nil {
			return err
		}
		result, err := c.Stop(context.Background())
		fmt.Println(interrupts, "interrupts,", result.Status, err)
	}
	return s.Close()
}

// terminal is a pseudo terminal with a shell that runs one job.
type terminal struct {
	t      *testing.T
	master *os.File
	lines  chan string
}

func openTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminals here:", err)
	}
	t.Cleanup(func() { master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	cmd := role("shell", args...)
	shell := exec.Command(cmd.Path, cmd.Args...)
	shell.Env = cmd.Env
	shell.Stdin, shell.Stdout, shell.Stderr = slave, slave, slave
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	require.NoError(t, shell.Start())
	slave.Close()
	term := &terminal{t, master, make(chan string, 100)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(term.lines)
		for r := bufio.NewScanner(master); r.Scan(); {
			term.lines <- strings.TrimSpace(r.Text())
		}
	}()
	t.Cleanup(func() {
		shell.Process.Kill()
		shell.Wait()
		<-read // the terminal hangs up with its last process
	})
	return term
}

// see waits for a line that holds the text, and returns it.
func (term *terminal) see(text string) string {
	term.t.Helper()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-term.lines:
			require.True(term.t, ok, "the terminal was closed before %q", text)
			term.t.Log(line)
			if strings.Contains(line, text) {
				return line
			}
		case <-timer.C:
			require.Fail(term.t, "never seen: "+text)
		}
	}
}

func (term *terminal) press(key byte) {
	term.t.Helper()
	_, err := term.master.Write([]byte{key})
	require.NoError(term.t, err)
}

const ctrlC, ctrlZ = 'C' - '@', 'Z' - '@'

func TestCtrlCTellsEachChildOnce(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "counter")
	term.see("pids")
	term.press(ctrlC)
	term.see("ended: forkspawn: signal: interrupt")
	for range 3 {
		term.see("0 interrupts, exit status 0 <nil>") // asked by its parent, and by nobody else
	}
	term.see("job exited 0")
}

func TestSecondCtrlCShortensTheLadder(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "deaf")
	term.see("pids")
	term.press(ctrlC)
	term.see("closing") // with an hour's patience
	term.press(ctrlC)
	for range 3 {
		term.see("ended on SIGTERM")
	}
	term.see("job exited 0")
}

func TestThirdCtrlCKills(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "deaf", "to SIGTERM too")
	term.see("pids")
	term.press(ctrlC)
	term.see("closing")
	term.press(ctrlC)
	term.see("sent terminated")
	term.press(ctrlC)
	for range 3 {
		term.see("killed: signal: killed")
	}
	term.see("job exited 0")
}

// Ctrl-Z stops the program and not its children, which are in groups of their own. After fg all is as before.
func TestCtrlZStopsTheParentAlone(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "counter")
	pids := strings.Fields(term.see("pids"))[1:]
	term.press(ctrlZ)
	term.see("job stopped")
	for _, pid := range pids {
		n, err := strconv.Atoi(pid)
		require.NoError(t, err)
		assert.True(t, running(n))
		assert.NotEqual(t, "T", spawntest.State(n))
	}
	term.press(ctrlC)
	for range 3 {
		term.see("0 interrupts, exit status 0")
	}
	term.see("job exited 0")
}
