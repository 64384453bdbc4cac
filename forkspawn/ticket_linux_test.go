package forkspawn_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// wrappers are programs that clear the environment and then execute the child. The
// shell runs it in a process of its own.
func wrappers(child forkspawn.Command) map[string]forkspawn.Command {
	self := append([]string{child.Path}, child.Args...)
	var keep []string // the role
	for _, kv := range child.Env {
		if strings.HasPrefix(kv, testkit.RoleEnv+"=") {
			keep = append(keep, kv)
		}
	}
	return map[string]forkspawn.Command{
		"env -i": {Path: "env", Args: append(append([]string{"-i"}, keep...), self...)},
		"env -u": {Path: "env", Args: append([]string{"-u", "SPAWNWIRE_TICKET"}, self...),
			Env: child.Env},
		"a shell": {Path: "sh", Args: append([]string{"-c",
			`unset SPAWNWIRE_TICKET; "$@"; exit $?`, "sh"}, self...), Env: child.Env},
	}
}

// A child without its ticket would take itself for the root of a tree, and start
// children again.
func TestTicket_LostOneEndsTheChild(t *testing.T) {
	for _, role := range []string{"joins", "spawns-itself"} {
		for name, cmd := range wrappers(roles.Command(role)) {
			t.Run(role+" behind "+name, func(t *testing.T) {
				s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec})
				boot := spawnError(t, testkit.Context(t), s, cmd, spawnspec.Spec{Name: "lost"})
				assert.ErrorIs(t, boot, forkspawn.ErrDied)
				assert.Contains(t, boot.Stderr, "has removed SPAWNWIRE_TICKET")
				assert.Equal(t, 1, boot.Status.Code())
			})
		}
	}
}

func TestTicket_OnStdin(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		for name, cmd := range wrappers(roles.Command("joins")) {
			t.Run(name, func(t *testing.T) {
				s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec, Listen: listen})
				cmd.TicketOnStdin = true
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "child"},
					forkspawn.WithCommand(cmd))
				require.NoError(t, err)
				_, err = c.Stop(testkit.Context(t))
				require.NoError(t, err)
			})
		}
	})
}

func TestTicket_OnStdinNeedsTheDefault(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Stdin: forkspawn.Inherit()})
	cmd := forkspawn.Command{TicketOnStdin: true}
	boot := spawnError(t, testkit.Context(t), s, cmd,
		spawnspec.Spec{Name: "echo", Entry: "echo"})
	var config *forkspawn.ConfigError
	assert.ErrorAs(t, boot, &config)
}

func TestTicket_ChildCanCallNewBeforeItIsReady(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec})
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "child"},
		forkspawn.WithCommand(roles.Command("prepares-spawner")))
	require.NoError(t, err)
	result, err := c.Wait(testkit.Context(t))
	require.NoError(t, err)
	assert.Zero(t, result.Code())
}

// A ready child can start programs with its own stdin, also roots of other trees.
func TestTicket_ReadyChildCanStartRoots(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "runs-root"})
	var said string
	require.NoError(t, c.Recv(testkit.Context(t), &said))
	assert.Equal(t, "a root", said)
}

// The file of a ticket cannot be removed in a pod. Its first process needs a ticket, and
// others may be roots.
func TestTicket_LostOneEndsTheFirstProcessOfAPod(t *testing.T) {
	testkit.NeedRoot(t)
	role := roles.Command("is-root")
	run := func(script string) string {
		cmd := exec.Command("sh", append([]string{"-ec", "mount --make-rprivate /; " +
			"mount -t tmpfs none /run; mkdir -p /var/run/secrets/spawnwire; " + script, role.Path},
			role.Args...)...)
		cmd.Env = role.Env
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, fs.ErrPermission) || strings.Contains(string(out), "mount:") {
			t.Skipf("no namespaces here: %v: %s", err, out)
		}
		return string(out)
	}
	const file = "echo 1 >/var/run/secrets/spawnwire/ticket; "
	assert.Equal(t, "a root", run(`exec "$0" "$@"`), "no pod")
	assert.Contains(t, run(file+`exec "$0" "$@"`), "has removed SPAWNWIRE_TICKET")
	assert.Equal(t, "a root", run(file+`"$0" "$@"; exit 0`), "not the first process")
}

// An ordinary process has no mark.
func TestTicket_OthersAreRoots(t *testing.T) {
	for _, stdin := range []*os.File{nil, os.Stdin} {
		role := roles.Command("is-root")
		cmd := exec.Command(role.Path, role.Args...)
		cmd.Env, cmd.Stdin = role.Env, stdin
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.Equal(t, "a root", string(out))
	}
}
