//go:build linux

package ssh_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/launch/ssh"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// commandsOf returns a host with a line of sh(1) before each command. The function counts
// the commands so far: all of them, and those with the script.
func commandsOf(t *testing.T, line string) (h *ssh.Host, count func() (all, scripts int)) {
	log := filepath.Join(t.TempDir(), "log")
	h = forced(t, line+`; case $SSH_ORIGINAL_COMMAND in *uname*) echo script;; `+
		`*) echo direct;; esac >>`+log)
	return h, func() (all, scripts int) {
		text := testkit.ReadFile(t, log)
		return strings.Count(text, "\n"), strings.Count(text, "script\n")
	}
}

func TestHost_RemembersItsProgram(t *testing.T) {
	h, count := commandsOf(t, ":")
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	for _, test := range []struct {
		name         string
		before       func()
		all, scripts int
		env          []string
	}{
		{name: "the first start", all: 1, scripts: 1},
		{name: "another one", all: 2, scripts: 1},
		{name: "with a long environment", all: 3, scripts: 1,
			env: []string{"LONG=" + strings.Repeat("x", 100_000)}},
		{name: "with an empty cache", all: 5, scripts: 2,
			before: func() { require.NoError(t, os.RemoveAll(h.CacheDir)) }},
		{name: "after that", all: 6, scripts: 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.before != nil {
				test.before()
			}
			c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "reports-state"},
				forkspawn.WithCommand(forkspawn.Command{Launcher: h, Env: test.env}))
			require.NoError(t, err)
			var there launching.State
			require.NoError(t, c.Recv(testkit.Context(t), &there))
			assert.Subset(t, there.Env, test.env)
			all, scripts := count()
			assert.Equal(t, test.all, all)
			assert.Equal(t, test.scripts, scripts)
		})
	}
}

// The command for a remembered program is not for other shells than those of POSIX.
func TestHost_OtherShells(t *testing.T) {
	h, count := commandsOf(t, "SHELL=/usr/bin/fish; export SHELL")
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	for range 2 {
		launching.RequireEcho(t, spawn(t, s, h, spawnspec.Spec{Entry: "echo"}))
	}
	all, scripts := count()
	assert.Equal(t, 2, all)
	assert.Equal(t, 2, scripts)
}
