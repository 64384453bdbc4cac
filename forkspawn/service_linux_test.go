package forkspawn_test

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
)

// systemd's default KillMode sends SIGTERM to a service and to its children, in
// any order.
func TestService_StopOfAllProcessesIsClean(t *testing.T) {
	for name, pause := range map[string]time.Duration{"children first": 5 * time.Millisecond,
		"parent first": 0} {
		t.Run(name, func(t *testing.T) {
			spawntest.NoLeaks(t)
			role := roles.Command("runs-service")
			cmd := exec.Command(role.Path, role.Args...)
			cmd.Env = role.Env
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(out)
			require.True(t, lines.Scan())
			var pids [3]int
			_, err = fmt.Sscanf(lines.Text(), "pids %d %d %d", &pids[0], &pids[1], &pids[2])
			require.NoError(t, err)
			if pause == 0 {
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			}
			for _, pid := range pids {
				syscall.Kill(pid, syscall.SIGTERM) // it may have ended as asked
			}
			if pause > 0 {
				time.Sleep(pause) // the order matters, not the length
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			}
			var rest []string
			for lines.Scan() {
				rest = append(rest, lines.Text())
			}
			require.NoError(t, cmd.Wait())
			require.Len(t, rest, 1, "no child is restarted")
			assert.True(t, strings.HasPrefix(rest[0], "clean: true"), rest[0])
		})
	}
}

// A program that ignores SIGCHLD gets no exit statuses. The children's goodbyes
// decide instead, and nothing is left of their process groups.
func TestDeath_StatusOfAProgramThatIgnoresSIGCHLD(t *testing.T) {
	spawntest.NoLeaks(t)
	role := roles.Command("ignores-sigchld")
	cmd := exec.Command(role.Path, role.Args...)
	cmd.Env = role.Env
	out, err := cmd.Output()
	require.NoError(t, err)
	text := string(out)
	assert.Contains(t, text, "group: <nil>\n")
	assert.Contains(t, text, "ended: unknown exit status (this program ignores SIGCHLD): ")
	_, number, _ := strings.Cut(text, "grandchild: ")
	var pid int
	_, err = fmt.Sscan(number, &pid)
	require.NoError(t, err)
	testkit.Eventually(t, "the grandchild is gone", func() bool { return !running(pid) })
}
