package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit/slurm"
)

// endlessTree creates sparse files of 1 TiB, so that hashing one takes longer
// than any test.
func endlessTree(t testing.TB, files int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range files {
		path := filepath.Join(dir, strconv.Itoa(i))
		write(t, path, nil)
		require.NoError(t, os.Truncate(path, 1<<40))
	}
	return dir
}

// busyWorkers waits until n children of parent have a file of dir open, and
// returns their pids.
func busyWorkers(t testing.TB, parent, n int, dir string) (pids []int) {
	t.Helper()
	require.Eventually(t, func() bool {
		pids = nil
		for _, pid := range children(t, parent) {
			for _, target := range descriptors(pid) {
				if strings.HasPrefix(target, dir+"/") {
					pids = append(pids, pid)
					break
				}
			}
		}
		return len(pids) == n
	}, bound, time.Millisecond)
	return pids
}

// children returns the pids of the children of parent.
func children(t testing.TB, parent int) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	require.NoError(t, err)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if _, ppid := stat(pid); ppid == parent {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// stat returns the state letter and the parent of a process, or "" and 0. See
// proc_pid_stat(5).
func stat(pid int) (state string, ppid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	fmt.Sscan(string(rest), &state, &ppid)
	return state, ppid
}

// descriptors returns the file of each descriptor of a process.
func descriptors(pid int) map[string]string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	targets := map[string]string{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			targets[e.Name()] = target
		}
	}
	return targets
}

func TestSignal_KillsBusyWorkers(t *testing.T) {
	spawntest.NoLeaks(t)
	for _, c := range []struct {
		network string
		signal  syscall.Signal
		want    int
	}{
		{"uds", syscall.SIGINT, 130},
		{"uds", syscall.SIGTERM, 143},
		{"tcp", syscall.SIGINT, 130},
	} {
		t.Run(c.network+" "+c.signal.String(), func(t *testing.T) {
			dir := endlessTree(t, 3)
			cmd, tmp := program(t, longGrace, "-workers", "3", "-transport", c.network, dir)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			require.NoError(t, cmd.Start())
			workers := busyWorkers(t, cmd.Process.Pid, 3, dir)
			began := time.Now()
			require.NoError(t, cmd.Process.Signal(c.signal))
			require.NoError(t, cmd.Process.Signal(c.signal)) // twice, like an impatient user
			assert.Equal(t, c.want, wait(t, cmd))
			t.Logf("ended %v after the signal", time.Since(began))
			for _, pid := range workers {
				assert.NoDirExists(t, fmt.Sprintf("/proc/%d", pid))
			}
			assert.Empty(t, stdout.String())
			assert.Empty(t, stderr.String())
			assertEmpty(t, tmp)
		})
	}
}

func TestLive_ServesTheProcesses(t *testing.T) {
	spawntest.NoLeaks(t)
	dir := endlessTree(t, 2)
	cmd, tmp := program(t, longGrace, "-workers", "2", "-live", ":0", dir)
	page := startLive(t, cmd)
	assert.True(t, strings.HasPrefix(page, "http://127.0.0.1:"), "on the loopback interface")
	busyWorkers(t, cmd.Process.Pid, 2, dir)
	answer, err := http.Get(page)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	assert.Contains(t, string(body), ">worker-1<td>ready<td>")
	assert.Contains(t, string(body), ">worker-2<td>ready<td>")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	assert.Equal(t, 130, wait(t, cmd))
	assertEmpty(t, tmp)
}

func TestWorker_CannotBootWhileOthersAreBusy(t *testing.T) {
	spawntest.NoLeaks(t)
	dir := endlessTree(t, 2)
	cmd, tmp := program(t, oneWorker, "-workers", "2", dir)
	claims := t.TempDir()
	fifo := filepath.Join(claims, "go")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	cmd.Env = append(cmd.Env, claimsEnv+"="+claims)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	busyWorkers(t, cmd.Process.Pid, 1, dir)
	require.NoError(t, os.WriteFile(fifo, nil, 0)) // lets the second worker boot, and fail
	assert.Equal(t, 1, wait(t, cmd))
	assert.Empty(t, stdout.String())
	assert.Equal(t, 1, strings.Count(stderr.String(), "treehash: "), stderr.String())
	assert.Contains(t, stderr.String(), "treehash: forkspawn: spawn ")
	assertEmpty(t, tmp)
}

func TestOrphan_WorkersEndWithParent(t *testing.T) {
	spawntest.NoLeaks(t)
	for _, network := range []string{"uds", "tcp"} {
		t.Run(network, func(t *testing.T) {
			dir := endlessTree(t, 4)
			cmd, _ := program(t, asItIs, "-workers", "4", "-transport", network, dir)
			require.NoError(t, cmd.Start())
			workers := busyWorkers(t, cmd.Process.Pid, 4, dir)
			require.NoError(t, cmd.Process.Kill())
			began := time.Now()
			spawntest.AwaitGone(t, workers...)
			t.Logf("dead %v after the kill", time.Since(began))
			assert.Equal(t, -1, wait(t, cmd))
		})
	}
}

func TestWorker_IsReplacedDuringFile(t *testing.T) {
	dir := endlessTree(t, 1)
	cmd, tmp := program(t, asItIs, dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	for range maxDeaths - 1 {
		worker := busyWorkers(t, cmd.Process.Pid, 1, dir)
		require.NoError(t, syscall.Kill(worker[0], syscall.SIGSEGV))
		spawntest.AwaitGone(t, worker...)
	}
	worker := busyWorkers(t, cmd.Process.Pid, 1, dir)
	// Now the worker gets to the end of the file.
	require.NoError(t, os.Truncate(filepath.Join(dir, "0"), 0))
	assert.Zero(t, wait(t, cmd))
	assert.Equal(t, maxDeaths-1, strings.Count(stderr.String(), `; it was at "./0"`),
		stderr.String())
	spawntest.AwaitGone(t, worker...)
	assertEmpty(t, tmp)
}

func TestWorker_InheritsNoDescriptors(t *testing.T) {
	dir := endlessTree(t, 2)
	leaked := filepath.Join(t.TempDir(), "leaked")
	write(t, leaked, nil)
	cmd, _ := program(t, asItIs, "-workers", "2", dir)
	cmd.Args = append([]string{"sh", "-c", `exec "$@" 9<` + leaked, "sh", cmd.Path},
		cmd.Args[1:]...)
	var err error
	cmd.Path, err = exec.LookPath("sh")
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	workers := busyWorkers(t, cmd.Process.Pid, 2, dir)
	assert.Equal(t, leaked, descriptors(cmd.Process.Pid)["9"], "the parent has it")
	for _, pid := range workers {
		open := descriptors(pid)
		assert.NotEmpty(t, open)
		for _, target := range open {
			assert.NotEqual(t, leaked, target)
		}
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.Equal(t, 130, wait(t, cmd))
}

func TestOutput_FullDisk(t *testing.T) {
	dir, _ := oddTree(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	cmd, tmp := program(t, asItIs, dir)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &stderr
	require.NoError(t, cmd.Start())
	assert.Equal(t, 1, wait(t, cmd))
	assert.Equal(t, "treehash: write /dev/stdout: no space left on device\n", stderr.String())
	assertEmpty(t, tmp)
}

// onTerminal starts cmd in a new session on a new terminal and returns the other
// end of the terminal. The terminal is stdin, stderr and, unless cmd.Stdout is
// set, stdout.
func onTerminal(t testing.TB, cmd *exec.Cmd) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd()) // see pts(4)
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	defer slave.Close()
	cmd.Stdin, cmd.Stderr = slave, slave
	if cmd.Stdout == nil {
		cmd.Stdout = slave
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	require.NoError(t, cmd.Start())
	return master
}

// erase removes the last line of the terminal.
const erase = "\r\x1b[K"

func TestTerminal_Progress(t *testing.T) {
	dir, want := oddTree(t)
	total := strings.Count(want, "\n")
	for _, c := range []struct{ name, flags, shown string }{
		{"is gone at the end", "-workers 2", `^(\d+ of %d files` + erase + `)+$`},
		{"is gone before other lines", "-workers 1 -crash-after 1",
			`^1 of %d files` + erase + `treehash: [^\n]*signal: killed; it was at [^\n]*\n`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd, tmp := program(t, asItIs, append(strings.Fields(c.flags), dir)...)
			var stdout bytes.Buffer
			cmd.Stdout = &stdout
			terminal := onTerminal(t, cmd)
			// It reads until EIO, when the last process has closed the terminal.
			shown, _ := io.ReadAll(terminal)
			assert.Zero(t, wait(t, cmd))
			assert.Equal(t, want, stdout.String())
			assert.Regexp(t, strings.ReplaceAll(fmt.Sprintf(c.shown, total), "[K", `\[K`),
				string(shown))
			assertEmpty(t, tmp)
		})
	}
}

func TestTerminal_ProgressBeforeOutput(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), []byte("a"))
	cmd, _ := program(t, asItIs, dir)
	terminal := onTerminal(t, cmd)
	shown, _ := io.ReadAll(terminal)
	assert.Zero(t, wait(t, cmd))
	// The terminal writes \n as \r\n.
	want := strings.ReplaceAll(sums(map[string][]byte{"a": []byte("a")}), "\n", "\r\n")
	assert.Equal(t, "1 of 1 files"+erase+want, string(shown))
}

func TestTerminal_CtrlC(t *testing.T) {
	spawntest.NoLeaks(t)
	dir := endlessTree(t, 2)
	write(t, filepath.Join(dir, "!"), nil) // is hashed first and so shows progress
	cmd, tmp := program(t, asItIs, "-workers", "2", dir)
	terminal := onTerminal(t, cmd)
	progress := make([]byte, len("1 of 3 files"))
	_, err := io.ReadFull(terminal, progress)
	require.NoError(t, err)
	assert.Equal(t, "1 of 3 files", string(progress))
	workers := busyWorkers(t, cmd.Process.Pid, 2, dir)
	_, err = terminal.Write([]byte{3}) // Ctrl-C, for all processes in the foreground
	require.NoError(t, err)
	shown, _ := io.ReadAll(terminal)
	assert.Equal(t, 130, wait(t, cmd))
	assert.Equal(t, "^C"+erase, string(shown))
	spawntest.AwaitGone(t, workers...)
	assertEmpty(t, tmp)
}

func TestOutput_OnNodesOfACluster(t *testing.T) {
	cl := slurm.New(t, 2)
	dir, want := oddTree(t)
	got := runProgram(t, leakCheck, "-on", "slurm:2", "-crash-after", "5", dir)
	assert.Equal(t, want, got.stdout)
	assert.Zero(t, got.code, got.stderr)
	jobs := cl.Run(t, "scontrol", "--oneliner", "show", "jobs")
	assert.Equal(t, 1, strings.Count(jobs, "JobName=spawnwire-"), jobs)
}
