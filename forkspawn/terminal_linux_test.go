package forkspawn_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
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
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
)

// terminal is a pseudo terminal with the role shell in it.
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
	cmd := roles.Command("shell", args...)
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
		<-read // reading ends when the terminal's last process has ended
	})
	return term
}

// see waits for a line with the text, and returns the line.
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

func TestTerminal_CtrlCReachesEachChildOnce(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "counts-interrupts")
	term.see("pids")
	term.press(ctrlC)
	term.see("ended: forkspawn: signal: interrupt")
	for range 3 {
		// its parent asked it, and the terminal did not signal it
		term.see("0 interrupts, exit status 0 <nil>")
	}
	term.see("job exited 0")
}

func TestTerminal_SecondCtrlCShortensTheStop(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "ignores-requests")
	term.see("pids")
	term.press(ctrlC)
	term.see("closing") // with graces of an hour
	term.press(ctrlC)
	for range 3 {
		term.see("ended on SIGTERM")
	}
	term.see("job exited 0")
}

func TestTerminal_ThirdCtrlCKills(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "ignores-requests", "to SIGTERM too")
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

// Ctrl-Z stops the program and not its children, because they have process groups
// of their own. After fg the program works as before.
func TestTerminal_CtrlZStopsTheParentAlone(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "counts-interrupts")
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

// A Ctrl-Z can reach a child before the child is in a group of its own. Then
// fg would not continue the child, and its start would never return.
func TestTerminal_CtrlZDuringStartsIsHarmless(t *testing.T) {
	spawntest.NoLeaks(t)
	if portable {
		t.Skip("syscall.ForkExec has this fault")
	}
	presses := 30
	if testkit.IsLong() {
		presses = 400
	}
	term := openTerminal(t, "starts-processes")
	for range presses {
		term.see("started")
		term.press(ctrlZ)
		term.see("job stopped")
	}
	term.see("started")
	term.see("started")
	term.press(ctrlC)
	term.see("job exited")
}

// A program that was started with SIGTSTP ignored, as by nohup and some job
// schedulers, has children that ignore it too.
func TestTerminal_IgnoredStopSignalsStayIgnored(t *testing.T) {
	ignore(t, unix.SIGTSTP, unix.SIGTTIN)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
		Command:  forkspawn.Command{Path: "grep", Args: []string{"SigIgn", "/proc/self/status"}},
		OwnGroup: true, Stdout: w,
	})
	require.NoError(t, err)
	w.Close()
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.True(t, p.Wait().Success())
	var ignored uint64
	_, err = fmt.Sscanf(string(out), "SigIgn: %x", &ignored)
	require.NoError(t, err)
	for _, sig := range []unix.Signal{unix.SIGTSTP, unix.SIGTTIN} {
		assert.NotZero(t, ignored&(1<<(sig-1)), sig)
	}
	assert.Zero(t, ignored&(1<<(unix.SIGTTOU-1)))
}

// ignore ignores the signals until the test's end. signal.Reset restores a signal only
// if it has a handler: else it stays ignored, also in children.
func ignore(t *testing.T, signals ...os.Signal) {
	signal.Ignore(signals...)
	t.Cleanup(func() {
		signal.Notify(make(chan os.Signal, 1), signals...)
		signal.Reset(signals...)
	})
}

func TestTerminal_BootThatNeedsItFailsAtOnce(t *testing.T) {
	spawntest.NoLeaks(t)
	term := openTerminal(t, "needs-terminal")
	for _, name := range []string{"in the background:", "below a shell:"} {
		assert.Contains(t, term.see(name), "stopped by the terminal (stopped (tty output))")
	}
	assert.Contains(t, term.see("own session:"), "/dev/tty")
	term.see("job exited 0")
}
