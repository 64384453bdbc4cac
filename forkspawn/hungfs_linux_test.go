package forkspawn_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// mountHung mounts a file system without answers, like one with a dead
// server, and returns its directory. A process that looks up a name there cannot
// be killed until release is called.
func mountHung(t *testing.T) (dir string, release func()) {
	t.Helper()
	testkit.NeedRoot(t)
	dir = t.TempDir()
	role := roles.Command("hangs-filesystem", dir)
	server := exec.Command(role.Path, role.Args...)
	server.Env = role.Env
	stdin, err := server.StdinPipe()
	require.NoError(t, err)
	stdout, err := server.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	release = sync.OnceFunc(func() {
		stdin.Close()
		server.Wait()
	})
	t.Cleanup(release)
	if line != "mounted\n" {
		t.Skip(line)
	}
	return dir, release
}

// inTime runs f. It fails the test if f hangs because another goroutine waits for
// a file system.
func inTime(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		require.Fail(t, "it waits for the file system: "+what)
	}
}

func TestHungFileSystem_BlocksNobodyElse(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  forkspawn.Config
		dir  bool // the directory is on it, and not the program
	}{
		{"directory", forkspawn.Config{Method: forkspawn.MethodExec}, true},
		{"program", forkspawn.Config{Method: forkspawn.MethodExec}, false},
		{"with a subreaper", forkspawn.Config{Method: forkspawn.MethodExec, Subreaper: true}, true},
		{"forked", forkspawn.Config{Method: forkspawn.MethodForkserver}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.cfg.Method == forkspawn.MethodForkserver {
				needForks(t)
			}
			dir, release := mountHung(t)
			s, err := forkspawn.New(c.cfg)
			require.NoError(t, err)
			require.NoError(t, s.AwaitTemplate(testkit.Context(t)))
			path := filepath.Join(dir, "never", "answered")
			spec, cmd := spawnspec.Spec{Entry: "echo"}, forkspawn.Command{}
			if c.dir {
				spec.Dir = path
			} else {
				cmd.Path = path
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			stuck := make(chan error, 1)
			go func() {
				_, err := s.Spawn(ctx, spec, forkspawn.WithCommand(cmd))
				stuck <- err
			}()
			// for the start to be in the kernel; nothing fails if it is not
			time.Sleep(300 * time.Millisecond)
			inTime(t, "a garbage collection", runtime.GC)
			inTime(t, "another program's start", func() {
				assert.NoError(t, exec.Command("true").Run())
			})
			inTime(t, "another Spawn", func() {
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
				if assert.NoError(t, err) {
					_, err = c.Stop(testkit.Context(t))
					assert.NoError(t, err)
				}
			})
			inTime(t, "Spawn", func() { err = <-stuck })
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			var resource *forkspawn.ResourceError
			if assert.ErrorAs(t, err, &resource) {
				assert.Contains(t, resource.Resource, path)
			}
			inTime(t, "Close", func() { err = s.Close() })
			if c.cfg.Method == forkspawn.MethodExec && !portable { // not only a thread waits
				assert.ErrorContains(t, err, "does not answer")
			} else {
				assert.NoError(t, err)
			}
			release()
			testkit.Eventually(t, "the process that waited is gone", func() bool {
				return unix.Waitid(unix.P_ALL, 0, nil,
					unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == unix.ECHILD
			})
		})
	}
}

// The template of the forkserver is a program like any other.
func TestHungFileSystem_TemplateDoesNotHoldUpClose(t *testing.T) {
	needForks(t)
	dir, release := mountHung(t)
	defer release()
	path := filepath.Join(dir, "never", "answered")
	s, err := forkspawn.New(forkspawn.Config{
		Method: forkspawn.MethodForkserver, Command: forkspawn.Command{Path: path}})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	inTime(t, "Spawn", func() { _, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}) })
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	inTime(t, "Close", func() { err = s.Close() })
	assert.ErrorContains(t, err, "does not answer")
}

func TestHungFileSystem_IsNoPlaceForTheSocket(t *testing.T) {
	dir, release := mountHung(t)
	defer release()
	t.Setenv("XDG_RUNTIME_DIR", "")
	tmp := filepath.Join(testkit.ShortDir(t), "tmp") // a socket's path is short
	require.NoError(t, os.Symlink(filepath.Join(dir, "never", "answered"), tmp))
	t.Setenv("TMPDIR", tmp)
	var s *forkspawn.Spawner
	var err error
	inTime(t, "New", func() { s, err = forkspawn.New(forkspawn.Config{}) })
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
	require.NoError(t, err)
}
