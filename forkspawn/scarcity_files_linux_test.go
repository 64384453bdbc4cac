package forkspawn_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestScarcity_NoProc(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // no close-on-exec
		require.NoError(t, err)
		defer unix.Close(leak)
		mount(t, "/proc", "")
		networks(t, func(t *testing.T, listen transport.Addr) {
			_, err := forkspawn.New(forkspawn.Config{Listen: listen, Subreaper: true})
			assert.ErrorContains(t, err,
				"subreaper: cannot list this process's children: open /proc/self/task: no such file or directory")

			s := newSpawner(t, forkspawn.Config{Listen: listen})
			works(t, s)
			// A child without /proc has a child of its own.
			c := spawn(t, s, spawnspec.Spec{Entry: "spawns-echo"})
			var grandchild int
			require.NoError(t, c.Recv(testkit.Context(t), &grandchild))
			assert.True(t, alive(grandchild))
			result, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
			assert.False(t, alive(grandchild))

			_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "sh"},
				forkspawn.WithCommand(sh("echo of no use >&2; exit 3")))
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			assert.Equal(t, forkspawn.ExitedStatus(3), boot.Status)
			assert.Contains(t, boot.Error(), "of no use")
		})
	})
}

// Without /proc the library finds the program's file by os.Args[0]. If that
// fails, the error names both ways.
func TestScarcity_OwnFileWithoutProc(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		mount(t, "/proc", "")
		os.Args[0] = "no-such-name"
		s := newSpawner(t, forkspawn.Config{})
		_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
		names(t, err, exec.ErrNotFound, "/proc", "no-such-name", "Command.Path")
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"},
			forkspawn.WithCommand(forkspawn.Command{Path: os.Getenv(ownFileEnv)}))
		require.NoError(t, err)
		answers(t, c)
	})
}

func TestScarcity_NoNullDevice(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		stdin, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer stdin.Close()
		mount(t, "/dev", "")
		s := newSpawner(t, forkspawn.Config{})
		_, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "null", Entry: "echo"})
		names(t, err, os.ErrNotExist, "/dev/null", "the null device", "File")
		s = newSpawner(t,
			forkspawn.Config{Stdin: forkspawn.File(stdin), Stdout: forkspawn.Capture(nil)})
		works(t, s)
	})
}

// When a user has very many pages in pipes, the kernel makes new pipes with only
// two pages.
func TestScarcity_SmallPipes(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		testkit.NeedRoot(t)
		become(t, nobody)
		size := func(fd int) int {
			n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
			require.NoError(t, err)
			return n
		}
		for n := 0; ; n++ {
			if n > 5000 {
				t.Skip("there is no fs.pipe-user-pages-soft here")
			}
			var p [2]int
			require.NoError(t, syscall.Pipe2(p[:], syscall.O_CLOEXEC))
			defer syscall.Close(p[0])
			defer syscall.Close(p[1])
			if size(p[0]) <= 8<<10 {
				t.Logf("after %d pipes they have %d bytes", n, size(p[0]))
				break
			}
			unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 1<<20) // until the kernel refuses it
		}
		var out, errs lockedBuffer
		s := newSpawner(t,
			forkspawn.Config{Stdout: forkspawn.Capture(&out), Stderr: forkspawn.Capture(&errs)})
		c := spawn(t, s, spawnspec.Spec{Entry: "floods-output"})
		var done string
		require.NoError(t, c.Recv(testkit.Context(t), &done))
		_, err := c.Wait(testkit.Context(t))
		require.NoError(t, err)
		assert.True(t, strings.HasSuffix(c.StderrTail(), "x\nthe last line\n"))
		requireLost(t, s.Close(), out.dropped(t)+errs.dropped(t))
		assert.Equal(t, roles.Flooded, out.len()+int(out.dropped(t)),
			"each byte was passed on or is counted as dropped")
	})
}

// The writer of a captured stream fails because its disk is full. The child is
// not disturbed. When there is room again the stream continues, with a line
// about how much is missing.
func TestScarcity_FullDisk(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		mount(t, "/srv", "size=64k")
		log, err := os.Create("/srv/log")
		require.NoError(t, err)
		defer log.Close()
		offered := &meter{w: log}
		s, err := forkspawn.New(forkspawn.Config{Stdout: forkspawn.Capture(offered)})
		require.NoError(t, err)
		c := spawn(t, s, spawnspec.Spec{Entry: "prints"})
		testkit.Eventually(t, "the writer has got all, with or without success", func() bool {
			return offered.z.Load() == roles.Printed
		})
		require.NoError(t, log.Truncate(0))
		_, err = log.Seek(0, io.SeekStart)
		require.NoError(t, err)
		require.NoError(t, c.Send(testkit.Context(t), "there is room again"))
		status, err := c.Wait(testkit.Context(t))
		require.NoError(t, err)
		assert.True(t, status.Success())
		var lost *forkspawn.LostOutputError
		require.ErrorAs(t, s.Close(), &lost)
		assert.EqualValues(t, roles.Printed-64<<10, lost.Bytes)
		b, err := os.ReadFile("/srv/log")
		require.NoError(t, err)
		assert.Regexp(t,
			`^\n\[spawnwire: \d+ bytes lost: write /srv/log: no space left on device\]\none more line\n$`, string(b))
		assert.Contains(t, string(b), itoa(roles.Printed-64<<10), "what is missing")
	})
}

// meter counts each z on its way to a writer.
type meter struct {
	w io.Writer
	z atomic.Int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.z.Add(int64(bytes.Count(p, []byte("z"))))
	return n, err
}

func TestScarcity_ChildWithoutProc(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		networks(t, func(t *testing.T, listen transport.Addr) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			cmd := forkspawn.Command{Path: "unshare",
				Args: []string{"-m", "sh", "-c",
					`mount -t tmpfs tmpfs /proc && exec "$` + ownFileEnv + `"`}}
			c, err := s.Spawn(testkit.Context(t),
				spawnspec.Spec{Name: "blind", Entry: "spawns-echo"}, forkspawn.WithCommand(cmd))
			require.NoError(t, err)
			var grandchild int
			require.NoError(t, c.Recv(testkit.Context(t), &grandchild))
			result, err := c.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
			assert.False(t, alive(grandchild))
		})
	})
}
