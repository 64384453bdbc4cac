package blob_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/blob"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

func TestBlob_NobodyCanChangeIt(t *testing.T) {
	b := build(t, 3*os.Getpagesize()+1)
	fd := int(b.File().Fd())
	_, err := b.File().WriteAt([]byte("x"), 0)
	assert.ErrorIs(t, err, syscall.EPERM)
	assert.ErrorIs(t, unix.Ftruncate(fd, 1), syscall.EPERM)
	assert.ErrorIs(t, unix.Ftruncate(fd, 1<<20), syscall.EPERM)
	_, err = unix.Mmap(fd, 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	assert.ErrorIs(t, err, syscall.EPERM)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)
	assert.ErrorIs(t, err, syscall.EPERM)
}

func TestOpen_RefusesUnsealedMemory(t *testing.T) {
	for name, seals := range map[string]int{
		"none":    0,
		"no size": unix.F_SEAL_WRITE | unix.F_SEAL_SEAL,
		"no data": unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL,
		"future": unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL |
			unix.F_SEAL_FUTURE_WRITE,
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
			require.NoError(t, err)
			f := os.NewFile(uintptr(fd), "x")
			defer f.Close()
			_, err = f.WriteString("hello")
			require.NoError(t, err)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
			require.NoError(t, err)
			_, err = blob.Open(f)
			assert.ErrorIs(t, err, blob.ErrNotSealed)
		})
	}
}

// More memory than there is gives an error, and does not kill the process.
func TestBuild_WithoutMemory(t *testing.T) {
	_, err := blob.Build("huge", 1<<62, func([]byte) error { panic("it has no memory") })
	require.ErrorIs(t, err, syscall.ENOMEM)
	assert.ErrorContains(t, err, `blob: build "huge": fallocate: `)
}

// Executed children share one copy. Pss counts a page of k processes as 1/k page in each.
func TestBlob_IsThereOnce(t *testing.T) {
	size, children := 20<<20, 4
	if testkit.IsLong() {
		size, children = 200<<20, 20
	}
	b := build(t, size)
	s := newSpawner(t, forkspawn.Config{Command: command(b)})
	var total int
	list := make([]*forkspawn.Child, children)
	for i := range list {
		list[i] = spawn(t, s)
		digest(t, list[i])
	}
	for _, c := range list {
		total += pssOf(t, c.PID(), "/memfd:table")
	}
	t.Logf("%d children have %d bytes together, %.3f times the Blob", children, total,
		float64(total)/float64(size))
	assert.InDelta(t, size, total, float64(size)/20)
}
