//go:build linux

package oci_test

import (
	"bufio"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/containers"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/launch/oci"
)

// processes returns the processes whose command line is accepted.
func processes(accept func(args []string) bool) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && accept(strings.Split(string(text), "\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// isOfContainer reports whether a command line names a container.
func isOfContainer(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return strings.HasPrefix(a, "spawnwire-") && !strings.HasPrefix(a, "spawnwire-test-")
	})
}

// programOf returns the engine's program of the only container.
func programOf(t testing.TB, e *containers.Engine) int {
	t.Helper()
	pids := processes(func(args []string) bool {
		return filepath.Base(args[0]) == e.Name && slices.Contains(args, "run") &&
			isOfContainer(args)
	})
	require.Len(t, pids, 1)
	return pids[0]
}

// supervisorOf returns the supervisor of the only container.
func supervisorOf(t testing.TB) int {
	t.Helper()
	pids := processes(func(args []string) bool { return args[0] == "/dev/spawnwire" })
	for _, pid := range pids {
		stat := testkit.ReadFile(t, "/proc/"+strconv.Itoa(pid)+"/status")
		_, list, _ := strings.Cut(stat, "NSpid:")
		list, _, _ = strings.Cut(list, "\n")
		if f := strings.Fields(list); f[len(f)-1] == "1" {
			return pid
		}
	}
	t.Fatalf("no supervisor among %v", pids)
	return 0
}

// The program of crun is not between the container and its stdin.
func testProgramKilled(t *testing.T, e *containers.Engine) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c := launching.Spawn(t, s, launcherOf(e), "echo")
	require.NoError(t, syscall.Kill(programOf(t, e), syscall.SIGKILL))
	if e.Name == "crun" {
		launching.RequireEcho(t, c)
		_, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		return
	}
	err := c.Recv(testkit.Context(t), new(any))
	require.ErrorIs(t, err, oci.ErrLost)
	assert.ErrorContains(t, err, "killed")
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.False(t, exit.Status.Known())
}

// SIGKILL cannot reach a child whose supervisor is stopped; the engine ends it then.
func testSupervisorStopped(t *testing.T, e *containers.Engine) {
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	c := launching.Spawn(t, s, launcherOf(e), "echo")
	supervisor := supervisorOf(t)
	require.NoError(t, syscall.Kill(supervisor, syscall.SIGSTOP))
	_, err := c.Kill()
	require.NoError(t, err)
	require.ErrorIs(t, c.Err(), oci.ErrLost)
	spawntest.AwaitGone(t, supervisor)
}

// deaths is for a longer run:
//
//	SPAWNWIRE_LONG=1 go test -v -timeout 60m -run '/parent.killed' ./launch/oci -deaths 100
var deaths = flag.Int("deaths", 20, "the rounds of the tests of deaths, with SPAWNWIRE_LONG=1")

// The parent is killed after the start and in it, so nobody asks the container to end.
func testParentKilled(t *testing.T, e *containers.Engine) {
	place := testkit.ShortDir(t) // a killed parent leaves its socket
	rounds := 2
	if testkit.IsLong() {
		rounds = *deaths
	}
	for round := range rounds {
		parent := testkit.RoleCommand(t, "spawns-inside")
		parent.Env = append(parent.Env, "TMPDIR="+place, "XDG_RUNTIME_DIR=",
			encode(launcherOf(e)))
		parent.Stderr = os.Stderr
		out, err := parent.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, parent.Start())
		lines := bufio.NewScanner(out)
		require.True(t, lines.Scan(), "begins")
		if round == 0 {
			require.True(t, lines.Scan(), "ready")
		} else {
			time.Sleep(time.Duration(round) * 40 * time.Millisecond)
		}
		require.NoError(t, parent.Process.Kill())
		var exit *exec.ExitError
		require.ErrorAs(t, parent.Wait(), &exit)
		testkit.Eventually(t, "the engine's program has ended", func() bool {
			return len(processes(isOfContainer)) == 0
		})
		e.AwaitNone(t)
	}
}
