package forkspawn_test

import (
	"fmt"
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
	"github.com/spawnwire/spawnwire/transport"
)

func dirOf(s *forkspawn.Spawner) string { return filepath.Dir(filepath.Dir(s.Addr().Target)) }

// New looks for a place for its socket. It skips each place that is missing or
// unusable. If none is left, the error names all of them, and other kinds of
// addresses still work.
func TestScarcity_SocketFindsItsPlace(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		long := "/" + strings.Repeat("long/", 40)[:199] // 200 characters
		made := func(t *testing.T, where string) {
			t.Helper()
			s, err := forkspawn.New(forkspawn.Config{})
			require.NoError(t, err)
			assert.Equal(t, where, dirOf(s))
			works(t, s)
			require.NoError(t, s.Close())
		}
		nowhere := func(t *testing.T, is error, words ...string) {
			t.Helper()
			before := descriptors(t)
			_, err := forkspawn.New(forkspawn.Config{})
			names(t, err, is, append(words, "TMPDIR", "Config.Listen")...)
			assert.Equal(t, before, descriptors(t))
			for _, addr := range []transport.Addr{{Scheme: "tcp", Target: "127.0.0.1:0"},
				{Scheme: "uds", Target: "@spawnwire-" + itoa(os.Getpid())}} {
				works(t, newSpawner(t, forkspawn.Config{Listen: addr}))
			}
		}
		tmp := os.TempDir()

		t.Run("TMPDIR of 200 characters", func(t *testing.T) {
			mount(t, "/tmp", "") // writable, for the directory
			require.NoError(t, os.MkdirAll("/tmp"+long, 0o700))
			t.Setenv("TMPDIR", "/tmp"+long)
			made(t, "/tmp")
		})
		t.Run("TMPDIR is missing", func(t *testing.T) {
			mount(t, "/tmp", "")
			t.Setenv("TMPDIR", "/no/such/directory")
			made(t, "/tmp")
		})
		t.Run("TMPDIR is read-only", func(t *testing.T) {
			readOnly(t, tmp)
			made(t, "/tmp")
		})
		t.Run("TMPDIR has no inodes", func(t *testing.T) {
			mount(t, "/srv", "nr_inodes=1") // for the root of the file system
			t.Setenv("TMPDIR", "/srv")
			made(t, "/tmp")
		})
		t.Run("TMPDIR has no space", func(t *testing.T) {
			mount(t, tmp, "size=64k")
			err := os.WriteFile(tmp+"/filler", make([]byte, 1<<20), 0o600)
			require.ErrorIs(t, err, syscall.ENOSPC)
			made(t, tmp) // a socket needs no space
		})
		t.Run("no XDG_RUNTIME_DIR", func(t *testing.T) { made(t, tmp) })
		t.Run("XDG_RUNTIME_DIR is missing", func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", "/no/such/directory")
			made(t, tmp)
		})
		t.Run("XDG_RUNTIME_DIR is there", func(t *testing.T) {
			mount(t, "/srv", "mode=700")
			t.Setenv("XDG_RUNTIME_DIR", "/srv")
			made(t, "/srv")
		})
		t.Run("inodes run out on the way", func(t *testing.T) {
			// The root, the directory, the lock and the socket need one each.
			for inodes := 1; inodes <= 4; inodes++ {
				t.Run(itoa(inodes), func(t *testing.T) {
					mount(t, "/dev/shm", "nr_inodes=1")
					mount(t, "/tmp", "nr_inodes="+itoa(inodes))
					t.Setenv("TMPDIR", "/tmp")
					if inodes == 4 {
						made(t, "/tmp")
					} else {
						nowhere(t, syscall.ENOSPC, "/tmp", "no space left on device")
					}
					left, err := os.ReadDir("/tmp")
					require.NoError(t, err)
					assert.Empty(t, left)
				})
			}
		})
		t.Run("a read-only machine with a writable /dev/shm", func(t *testing.T) {
			readOnly(t, "/tmp")
			mount(t, "/dev/shm", "mode=1777")
			t.Setenv("TMPDIR", "/no/such/directory")
			made(t, "/dev/shm")
		})
		t.Run("a read-only machine", func(t *testing.T) {
			readOnly(t, "/tmp")
			readOnly(t, "/dev/shm")
			readOnly(t, "/srv")
			t.Setenv("TMPDIR", "/srv")
			nowhere(t, syscall.EROFS, "temporary directory /srv", "/tmp", "/dev/shm",
				"read-only file system")
		})
		t.Run("no place at all", func(t *testing.T) {
			readOnly(t, "/tmp")
			mount(t, "/dev/shm", "nr_inodes=1")
			t.Setenv("XDG_RUNTIME_DIR", "/no/such/directory")
			t.Setenv("TMPDIR", long)
			nowhere(t, syscall.ENOSPC, "$XDG_RUNTIME_DIR /no/such/directory", "no such file",
				"temporary directory "+long, "107", "/tmp", "read-only",
				"/dev/shm", "no space left")
		})
	})
}

// The place is lost while the Spawner runs. Its children are not disturbed, and
// nothing hangs.
func TestScarcity_SocketLosesItsPlace(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		t.Run("the disk is full", func(t *testing.T) {
			mount(t, os.TempDir(), "nr_inodes=4")
			s := newSpawner(t, forkspawn.Config{})
			require.ErrorIs(t, os.WriteFile(os.TempDir()+"/filler", nil, 0o600), syscall.ENOSPC)
			works(t, s)
		})
		t.Run("it becomes read-only", func(t *testing.T) {
			mount(t, os.TempDir(), "")
			s, err := forkspawn.New(forkspawn.Config{})
			require.NoError(t, err)
			readOnly(t, os.TempDir())
			works(t, s)
			err = s.Close()
			t.Log(err)
			assert.ErrorIs(t, err, syscall.EROFS)
			assert.ErrorContains(t, err, filepath.Dir(s.Addr().Target))
		})
		t.Run("somebody removes it", func(t *testing.T) {
			before := connections(t)
			s := newSpawner(t, forkspawn.Config{})
			c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
			// with the listener
			testkit.Eventually(t, "the child has both connections", func() bool {
				return connections(t) == before+3
			})
			require.NoError(t, os.RemoveAll(filepath.Dir(s.Addr().Target)))
			answers(t, c)
			works(t, s) // Spawn makes the socket again
			answers(t, c)
		})
	})
}

// The whole file system is read-only, except TMPDIR.
func TestScarcity_ReadOnlyRoot(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		mount(t, os.TempDir(), "")
		require.NoError(t, syscall.Mount("/", "/", "", syscall.MS_BIND|syscall.MS_REC, ""))
		require.NoError(t, syscall.Chroot("/"))
		require.NoError(t,
			syscall.Mount("", "/", "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		require.ErrorIs(t, os.WriteFile("/probe", nil, 0o600), syscall.EROFS)
		works(t, newSpawner(t, forkspawn.Config{}))
	})
}

// The child has another view of the file system, without the socket. An abstract
// name works.
func TestScarcity_ChildThatCannotSeeTheSocket(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{})
		hidden := fmt.Sprintf("mount -t tmpfs tmpfs '%s' && exec /proc/$PPID/exe", os.TempDir())
		cmd := forkspawn.Command{Path: "unshare", Args: []string{"-m", "sh", "-c", hidden}}
		_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "elsewhere", Entry: "echo"},
			forkspawn.WithCommand(cmd))
		var boot *forkspawn.BootError
		require.ErrorAs(t, err, &boot)
		t.Log(err)
		assert.ErrorIs(t, err, forkspawn.ErrDied)
		assert.Equal(t, forkspawn.ExitedStatus(1), boot.Status)
		for _, words := range []string{"dial unix", s.Addr().Target, "no such file or directory"} {
			assert.Contains(t, err.Error(), words)
		}
		works(t, s)

		s = newSpawner(t,
			forkspawn.Config{Listen: transport.Addr{Scheme: "uds",
				Target: "@spawnwire-" + itoa(os.Getpid())}})
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "elsewhere", Entry: "echo"},
			forkspawn.WithCommand(cmd))
		require.NoError(t, err)
		answers(t, c)
	})
}

// readOnly makes the file system at dir read-only in this process's mount
// namespace. The test's cleanup undoes it.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, syscall.Mount(dir, dir, "", syscall.MS_BIND, ""))
	require.NoError(t,
		syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}
