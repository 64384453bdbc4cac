//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// giveFiles returns the files of the entry uses-files.
func giveFiles(t *testing.T) (files map[string]*os.File, log string, address net.Addr) {
	log = filepath.Join(t.TempDir(), "log")
	file, err := os.Create(log)
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	listener, err := ln.(*net.TCPListener).File()
	require.NoError(t, err)
	ln.Close()
	t.Cleanup(func() { file.Close(); listener.Close() })
	return map[string]*os.File{"log": file, "listener": listener}, log, ln.Addr()
}

// usesFiles checks what a child does with its files.
func usesFiles(t *testing.T, c *forkspawn.Child, log string, address net.Addr) {
	t.Helper()
	conn, err := net.Dial("tcp", address.String())
	require.NoError(t, err)
	greeting, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(greeting))
	conn.Close()
	var own []string
	require.NoError(t, c.Recv(testkit.Context(t), &own))
	if runtime.GOOS == "linux" {
		assert.Contains(t, own, log)
		assert.NotContains(t, own, "/etc/hostname", "which leaks here")
	}
	var below string
	require.NoError(t, c.Recv(testkit.Context(t), &below))
	assert.Equal(t, "0 1 2 3", strings.TrimSpace(below), "ls itself opens the fourth")
	assert.Equal(t, "a line", testkit.ReadFile(t, log))
}

// A child gets the files of its command, and no other descriptor, also if this
// process leaks one.
func TestFiles_ReachExecutedForkedAndSpareChildren(t *testing.T) {
	leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // no close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	spawntest.NoLeaks(t)
	networks(t, func(t *testing.T, listen transport.Addr) {
		files, log, address := giveFiles(t)
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "uses-files"},
			forkspawn.WithCommand(forkspawn.Command{Files: files}))
		require.NoError(t, err)
		if method := os.Getenv(testkit.MethodEnv); method != "" && listen.IsZero() {
			assert.Equal(t, method, c.Spec().Method)
		}
		usesFiles(t, c, log, address)
	})
	t.Run("spare", func(t *testing.T) {
		files, log, address := giveFiles(t)
		s := newSpawner(t, forkspawn.Config{Spares: 1, Command: forkspawn.Command{Files: files}})
		require.NoError(t, s.AwaitSpares(testkit.Context(t)))
		c := spawn(t, s, spawnspec.Spec{Entry: "uses-files"})
		assert.True(t, c.Boot().Spare)
		usesFiles(t, c, log, address)
	})
	t.Run("program", func(t *testing.T) {
		files, log, _ := giveFiles(t)
		s := newSpawner(t, forkspawn.Config{})
		c, err := s.Start(testkit.Context(t), forkspawn.Command{Path: "sh", Files: files,
			Args: []string{"-c", "echo $SPAWNWIRE_FILES >&4; exec 3<&- 4<&-; ls /dev/fd/ >&2"}})
		require.NoError(t, err)
		_, err = c.Wait(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, "listener=3,log=4\n", testkit.ReadFile(t, log))
		assert.Equal(t, "0\n1\n2\n3\n", c.StderrTail(), "ls itself opens the fourth")
	})
	flags, err := unix.FcntlInt(uintptr(leak), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.Zero(t, flags, "the parent's own descriptor stays as it is")
}

// Many files come in the right order, although their numbers are in the way of each
// other.
func TestFiles_ManyKeepTheirNames(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	dir := t.TempDir()
	files := make(map[string]*os.File)
	var want strings.Builder
	for i := range 40 {
		name := "f" + itoa(10+i)
		path := filepath.Join(dir, name)
		testkit.WriteFile(t, path, name+" ")
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		files["f"+itoa(49-i)] = f
	}
	for i := range 40 {
		want.WriteString("f" + itoa(49-i) + " ")
	}
	c, err := s.Start(testkit.Context(t), forkspawn.Command{Path: "sh", Files: files,
		Args: []string{"-c", "i=3; while [ $i -lt 43 ]; do cat /dev/fd/$i; i=$((i+1)); done"}},
		forkspawn.WithStdout(forkspawn.Pipe()))
	require.NoError(t, err)
	out, err := io.ReadAll(c.Stdout())
	require.NoError(t, err)
	assert.Equal(t, want.String(), string(out))
}

func TestFiles_BadOnesAreRefused(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	closed, err := os.Open(os.DevNull)
	require.NoError(t, err)
	closed.Close()
	for text, files := range map[string]map[string]*os.File{
		`Config.Command.Files: "a=b" is no name`: {"a=b": os.Stdin},
		`Config.Command.Files: "a" is nil`:       {"a": nil},
		"start /dev/null: file already closed":   {"a": closed},
	} {
		_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"},
			forkspawn.WithCommand(forkspawn.Command{Files: files}))
		assert.ErrorContains(t, err, text)
	}
	local := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodInProcess})
	_, err = local.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"},
		forkspawn.WithCommand(forkspawn.Command{Files: map[string]*os.File{"a": os.Stdin}}))
	var boot *forkspawn.BootError
	assert.True(t, errors.As(err, &boot))
}

// elsewhere is a Launcher. It starts nothing.
type elsewhere struct{}

func (elsewhere) Launch(context.Context, *forkspawn.Launch) (forkspawn.Launched, error) {
	return nil, errors.New("it was asked to start")
}

func TestFiles_DoNotLeaveThisMachine(t *testing.T) {
	files, _, _ := giveFiles(t)
	s := newSpawner(t, forkspawn.Config{})
	for _, cmd := range []forkspawn.Command{{Files: files}, {Connections: true}} {
		cmd.Launcher = elsewhere{}
		boot := spawnError(t, testkit.Context(t), s, cmd,
			spawnspec.Spec{Name: "echo", Entry: "echo"})
		var config *forkspawn.ConfigError
		require.ErrorAs(t, boot, &config)
		assert.Equal(t, "Command.Launcher", config.Field)
	}
}
