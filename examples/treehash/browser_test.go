//go:build linux

package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// SPAWNWIRE_SCREENSHOT names a file for a picture of the page.
func TestLive_ShowsARestartInChromium(t *testing.T) {
	for _, program := range []string{"node", "chromium"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	if _, err := os.Stat("../../live/browser/node_modules"); err != nil {
		t.Skipf("%v; npm --prefix live/browser ci installs it", err)
	}
	spawntest.NoLeaks(t)
	dir := endlessTree(t, 2)
	cmd, tmp := program(t, longGrace, "-workers", "2", "-live", ":0", dir)
	page := startLive(t, cmd)
	workers := busyWorkers(t, cmd.Process.Pid, 2, dir)
	args := []string{"../../live/browser/look.mjs"}
	if file := os.Getenv("SPAWNWIRE_SCREENSHOT"); file != "" {
		args = append(args, "-screenshot", file)
	}
	looker := exec.CommandContext(t.Context(), "node", append(args, page)...)
	var problems strings.Builder
	looker.Stderr = &problems
	stdout, err := looker.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, looker.Start())
	looks := bufio.NewReader(stdout)
	opened, _ := looks.ReadString('\n')
	if opened == "open\n" {
		require.NoError(t, syscall.Kill(workers[0], syscall.SIGKILL))
	}
	rest, _ := io.ReadAll(looks)
	require.NoError(t, looker.Wait(), problems.String())
	t.Logf("%s%s", opened, rest)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	assert.Equal(t, 130, wait(t, cmd))
	assertEmpty(t, tmp)
}

// startLive starts the program and returns the address of its page.
func startLive(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stderr).ReadString('\n')
	require.NoError(t, err)
	_, page, ok := strings.Cut(strings.TrimSpace(line), "the processes are at ")
	require.True(t, ok, line)
	return page
}
