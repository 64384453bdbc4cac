//go:build linux

package ssh_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/internal/testkit/sshd"
	"github.com/spawnwire/spawnwire/launch/ssh"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// spawnError spawns a child and requires an error of a host.
func spawnError(t *testing.T, h *ssh.Host) *ssh.Error {
	t.Helper()
	s := spawntest.NewSpawner(t, forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"}, on(h))
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	var failed *ssh.Error
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, h.Name, failed.Host)
	return failed
}

func TestErrors_NameTheThing(t *testing.T) {
	server, h := newHost(t)
	with := func(args ...string) *ssh.Host {
		return &ssh.Host{Name: h.Name, CacheDir: h.CacheDir,
			Command: append(server.Command[:len(server.Command):len(server.Command)], args...)}
	}
	t.Run("host key", func(t *testing.T) {
		err := spawnError(t, with("-o", "UserKnownHostsFile=/dev/null"))
		assert.ErrorIs(t, err, ssh.ErrHostKey)
		assert.ErrorContains(t, err, "Host key verification failed.")
	})
	t.Run("user", func(t *testing.T) {
		assert.ErrorIs(t, spawnError(t, with("-l", "nobody-of-that-name")), ssh.ErrLogin)
	})
	t.Run("port", func(t *testing.T) {
		assert.ErrorIs(t, spawnError(t, with("-p", "1")), ssh.ErrUnreachable)
	})
	t.Run("name", func(t *testing.T) {
		err := spawnError(t, with("-o", "HostName=nowhere.invalid"))
		assert.ErrorIs(t, err, ssh.ErrUnreachable)
		assert.ErrorContains(t, err, "nowhere.invalid")
	})
	t.Run("no ssh", func(t *testing.T) {
		s := spawntest.NewSpawner(t, forkspawn.Config{})
		_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"},
			on(&ssh.Host{Name: "box", Command: []string{"/no/such/ssh"}}))
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "/no/such/ssh")
	})
	t.Run("cache directory", func(t *testing.T) {
		bad := with()
		bad.CacheDir = "/dev/null/cache"
		err := spawnError(t, bad)
		assert.ErrorIs(t, err, syscall.ENOTDIR)
		assert.Equal(t, "/dev/null/cache", err.Thing)
	})
	t.Run("the context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s := spawntest.NewSpawner(t, forkspawn.Config{})
		_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, on(h))
		require.ErrorIs(t, err, context.Canceled)
	})
}

// mount mounts a file system in a directory.
func mount(t *testing.T, options string) (dir string) {
	t.Helper()
	testkit.NeedRoot(t)
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).
		CombinedOutput(); err != nil {
		t.Skipf("no mount here: %s", out)
	}
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	return dir
}

func TestCache_FileSystems(t *testing.T) {
	server, h := newHost(t)
	h.Command = server.Share(t)
	t.Run("noexec", func(t *testing.T) {
		h := &ssh.Host{Name: h.Name, Command: h.Command, CacheDir: mount(t, "noexec")}
		err := spawnError(t, h)
		assert.ErrorIs(t, err, ssh.ErrNoExec)
		assert.Equal(t, h.CacheDir, err.Thing)
	})
	t.Run("full", func(t *testing.T) {
		h := &ssh.Host{Name: h.Name, Command: h.Command, CacheDir: mount(t, "size=1m")}
		err := spawnError(t, h)
		assert.ErrorIs(t, err, syscall.ENOSPC)
		assert.Equal(t, h.CacheDir, err.Thing)
		entries, rerr := os.ReadDir(h.CacheDir)
		require.NoError(t, rerr)
		assert.Empty(t, entries)
	})
	t.Run("read-only", func(t *testing.T) {
		h := &ssh.Host{Name: h.Name, Command: h.Command, CacheDir: mount(t, "ro") + "/cache"}
		assert.ErrorIs(t, spawnError(t, h), syscall.EROFS)
	})
}

// forced is a host with a line of sh(1) before each command.
func forced(t *testing.T, line string) *ssh.Host {
	_, h := newHost(t, `ForceCommand `+line+`; eval "$SSH_ORIGINAL_COMMAND"`)
	return h
}

func TestGreeting_ComesAfterNoise(t *testing.T) {
	h := forced(t, `echo Welcome to spawnwire-; printf spawnwire-; yes x | head -c 30000; `+
		`echo >&2 to stderr`)
	s := spawntest.NewSpawner(t, forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	launching.RequireEcho(t, spawn(t, s, h, spawnspec.Spec{Entry: "echo"}))
}

func TestGreeting_IsBounded(t *testing.T) {
	err := spawnError(t, forced(t, `yes | head -c 100000`))
	assert.ErrorIs(t, err, ssh.ErrGreeting)
}

// A uname of the test stands before that of the system.
func TestPlatform_ChoosesTheProgram(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho Linux riscv64\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "uname"), []byte(script), 0o700))
	h := forced(t, "PATH="+bin+`:$PATH; export PATH`)
	err := spawnError(t, h)
	assert.ErrorIs(t, err, ssh.ErrPlatform)
	assert.Equal(t, "linux/riscv64", err.Thing)

	self, oerr := os.Executable()
	require.NoError(t, oerr)
	named := &ssh.Host{Name: sshd.Name, Command: h.Command, CacheDir: h.CacheDir,
		Programs: map[string]string{"linux/riscv64": self}}
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	launching.RequireEcho(t, spawn(t, s, named, spawnspec.Spec{Entry: "echo"}))
}

func TestHost_MissingProgram(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"sh", "uname", "mkdir", "rm"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	h := forced(t, "PATH="+bin+`; export PATH`)
	err := spawnError(t, h)
	assert.ErrorIs(t, err, ssh.ErrProgramMissing)
	assert.ErrorContains(t, err, "head")
}

func TestSecret_IsNowhereElse(t *testing.T) {
	server, h := newHost(t, "LogLevel DEBUG3")
	var secret string
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	ctx := testkit.Context(t)
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "reports-pid"},
		launching.On(launching.Secretive{Launcher: h, Secret: &secret}))
	require.NoError(t, err)
	require.NoError(t, c.Recv(ctx, new(int)))
	looked := launching.SecretIsInNoProcess(t, secret)
	assert.Greater(t, looked, 2*runtime.NumCPU())
	for _, dir := range []string{server.Dir, h.CacheDir, filepath.Dir(s.Addr().Target)} {
		require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				text, rerr := os.ReadFile(path)
				require.NoError(t, rerr)
				assert.NotContains(t, string(text), secret, path)
			}
			return nil
		}))
	}
	_, err = c.Stop(ctx)
	require.NoError(t, err)
	server.Stop(t)
	assert.NotContains(t, server.Log(), secret)
	assert.Contains(t, server.Log(), "Accepted publickey")
}
