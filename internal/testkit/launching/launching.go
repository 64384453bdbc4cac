//go:build linux

// Package launching has what the tests of all launchers do with children in another place.
package launching

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// Register registers the entries reports-state, speaks and fills-memory. Package roles has
// the entry echo.
func Register() {
	forkspawn.Register("reports-state", reportsState)
	forkspawn.Register("speaks", speaks)
	forkspawn.Register("fills-memory", fillsMemory)
}

// State is the report of a child.
type State struct {
	PID, PPID int
	Env       []string
	Program   string
}

// reportsState sends its state and waits.
func reportsState(ctx context.Context, p *forkspawn.Parent) error {
	program, _ := os.Executable()
	s := State{os.Getpid(), os.Getppid(), os.Environ(), program}
	if err := p.Send(ctx, s); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// speaks writes to stdout and stderr, and fails.
func speaks(context.Context, *forkspawn.Parent) error {
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	return errors.New("that is all")
}

// fillsMemory uses 400 MiB and waits.
func fillsMemory(ctx context.Context, _ *forkspawn.Parent) error {
	all := make([]byte, 400<<20)
	for i := range all {
		all[i] = 1
	}
	<-ctx.Done()
	return fmt.Errorf("%d bytes", len(all))
}

// On starts a child with a launcher.
func On(l forkspawn.Launcher) forkspawn.Option {
	return forkspawn.WithCommand(forkspawn.Command{Launcher: l})
}

// Spawn starts an entry with a launcher.
func Spawn(t testing.TB, s *forkspawn.Spawner, l forkspawn.Launcher, entry string,
	opts ...forkspawn.Option) *forkspawn.Child {
	t.Helper()
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: entry}, append(opts, On(l))...)
	require.NoError(t, err)
	return c
}

// RequireEcho sends a word to the entry echo and receives it.
func RequireEcho(t testing.TB, c *forkspawn.Child) {
	t.Helper()
	ctx := testkit.Context(t)
	require.NoError(t, c.Send(ctx, "word"))
	var got string
	require.NoError(t, c.Recv(ctx, &got))
	require.Equal(t, "word", got)
}

// Children tests that children are as any other. impatient has a StopGrace of a moment.
func Children(t *testing.T, s, impatient *forkspawn.Spawner, l forkspawn.Launcher) {
	Messages(t, s, l)
	t.Run("output, last words and status", func(t *testing.T) {
		var stderr testkit.Output
		c := Spawn(t, s, l, "speaks", forkspawn.WithStdout(forkspawn.Capture(nil)),
			forkspawn.WithStderr(forkspawn.Capture(&stderr)))
		var exit *forkspawn.ExitError
		require.ErrorAs(t, c.Recv(testkit.Context(t), new(any)), &exit)
		assert.Equal(t, 1, exit.Status.Code())
		assert.Equal(t, "that is all", exit.Said)
		assert.Contains(t, c.StdoutTail(), "to stdout")
		testkit.Eventually(t, "all output", func() bool {
			return strings.Contains(stderr.String(), "to stderr\n")
		})
	})
	t.Run("force", func(t *testing.T) {
		result, err := Spawn(t, s, l, "echo").Kill()
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Killed, result.By)
		assert.Equal(t, syscall.SIGKILL, result.Status.Signal())
	})
	Ends(t, s, impatient, l)
}

// Messages tests messages and a stop.
func Messages(t *testing.T, s *forkspawn.Spawner, l forkspawn.Launcher) {
	t.Run("messages and a stop", func(t *testing.T) {
		ctx := testkit.Context(t)
		c := Spawn(t, s, l, "echo")
		RequireEcho(t, c)
		large := bytes.Repeat([]byte("0123456789abcdef\n\r\x00\x04"), 200_000)
		go c.Send(ctx, large)
		var got []byte
		require.NoError(t, c.Recv(ctx, &got))
		require.True(t, bytes.Equal(large, got))
		result, err := c.Stop(ctx)
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
		assert.True(t, result.Status.Success(), "%v", result)
	})
}

// Ends tests the stop ladder and starts that fail. impatient has a StopGrace of a moment.
func Ends(t *testing.T, s, impatient *forkspawn.Spawner, l forkspawn.Launcher) {
	ctx := testkit.Context(t)
	t.Run("the stop ladder", func(t *testing.T) {
		result, err := Spawn(t, impatient, l, "ignores-requests").Stop(ctx)
		require.NoError(t, err)
		assert.NotEqual(t, forkspawn.Asked, result.By)
	})
	t.Run("a start that fails", func(t *testing.T) {
		_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "nowhere"}, On(l))
		require.ErrorContains(t, err, `"nowhere"`)
		_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, forkspawn.WithCommand(
			forkspawn.Command{Launcher: l, Path: "/no/such/program"}))
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/program")
	})
}

// Secretive is a Launcher. It shows the secret of its ticket to the test.
type Secretive struct {
	forkspawn.Launcher
	Secret *string
}

// Launch implements forkspawn.Launcher.
func (l Secretive) Launch(
	ctx context.Context, launch *forkspawn.Launch,
) (forkspawn.Launched, error) {
	*l.Secret = strings.Fields(launch.Ticket.Encode())[2]
	return l.Launcher.Launch(ctx, launch)
}

// SecretIsInNoProcess checks the command lines and the environments of this machine's
// processes. It returns how many it has read.
func SecretIsInNoProcess(t testing.TB, secret string) (looked int) {
	t.Helper()
	require.Len(t, secret, 64)
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, name := range files {
			if text, err := os.ReadFile(name); err == nil {
				looked++
				assert.NotContains(t, string(text), secret, name)
			}
		}
	}
	return looked
}

// SecretIsInNoFile checks the files below a directory. It returns how many there are.
func SecretIsInNoFile(t testing.TB, dir, secret string) (files int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			files++
			if text, err := os.ReadFile(path); err == nil {
				assert.NotContains(t, string(text), secret, path)
			}
		}
		return nil
	}))
	return files
}
